"""How XLA compiles for the tests.

Compiling takes most of the suite's time, and tiny networks need no fast code: without it, it takes a third. The tests
that kill a study, and the smoke runs, compile as a person's runs do.
"""

COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
DEVICES = "--xla_force_host_platform_device_count=4"
