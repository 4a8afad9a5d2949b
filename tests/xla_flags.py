"""How XLA compiles for the tests.

Compiling takes most of the suite's time, and tiny networks need no fast code: without it, it takes a third. The tests
that kill a study, and the smoke runs, compile as a person's runs do.
"""

from importlib.metadata import version

COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith("0.10."):  # later ones no longer have this flag, and end a process that names it
    COMPILE_FAST += " --xla_cpu_use_fusion_emitters=false"
DEVICES = "--xla_force_host_platform_device_count=4"
