"""The rows of a study: every property measured on every subject, or pair of subjects, that it was not measured on."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path

from kdib.answers import Answers, answer, hidden
from kdib.config import Study
from kdib.models.base import Model, Variables
from kdib.progress import Display, counted
from kdib.properties import of_task
from kdib.properties.base import HIDDEN_EXAMPLES, TRAIN_EXAMPLES, Evidence, Property, evenly
from kdib.records import Records, Row, Subject, read_json, write_json
from kdib.runs import fit_folder, snapshots, subjects
from kdib.tasks.base import Dataset, gather
from kdib.teaching import Lab, load, model_of

PORTION = 8  # subjects that a property measures before their rows are written
Network = Callable[[Subject], tuple[Model, Variables]]


def measure(lab: Lab) -> None:
    """The rows that are missing: a property is measured once for a subject, or a pair of them."""
    everyone = subjects(lab.study, lab.workdir)
    table, _ = Records(lab.workdir / "subjects.jsonl", Subject).read()
    Records(lab.workdir / "subjects.jsonl", Subject).append([s for s in everyone if s not in table])
    done_path = lab.workdir / "measured.json"
    done = read_json(done_path) if done_path.exists() else {}
    rows, properties = Records(lab.workdir / "rows.jsonl", Row), of_task(lab.study.task["name"])
    evidence = evidence_of(lab)._replace(everyone=everyone)
    with Display() as display:
        for name in lab.study.properties:
            wanted = units_of(name, everyone, lab.study)
            missing = [unit for unit in wanted if unit not in done.setdefault(name, [])]
            for units in _portions(missing, properties[name].kind):
                of = [wanted[unit] for unit in units]
                pairs = [(pair[0], pair[1]) for pair in of if len(pair) == 2]
                alone = [one[0] for one in of if len(one) == 1]
                stored = rows.keys()  # a crash between the rows and `measured.json` leaves some
                found = properties[name].measure(alone, evidence._replace(pairs=pairs))
                told = counted(found, name, display, before=len(done[name]), wanted=len(wanted))
                try:
                    rows.append([row for row in told if row.key not in stored])
                except FloatingPointError as error:
                    raise FloatingPointError(f"{name} of {units[0]} to {units[-1]}: {error}") from error
                done[name] += units
                write_json(done_path, done)
            if missing:  # the rows of a property need not name every network
                display.show(1.0, f"measured {name}", f"{len(wanted)} of {len(wanted)}", force=True)
            _exhibit(properties[name], everyone, evidence, lab.workdir)


def is_measured(everyone: list[Subject], study: Study, workdir: Path) -> bool:
    """Whether every row and every exhibit of these subjects is there."""
    path, known = workdir / "measured.json", of_task(study.task["name"])
    if not path.exists():
        return False
    done = read_json(path)
    return all(
        _is_shown(known[name], everyone, workdir)
        and all(unit in done.get(name, []) for unit in units_of(name, everyone, study))
        for name in study.properties
    )


def _is_shown(prop: Property, everyone: list[Subject], workdir: Path) -> bool:
    """Whether a property has no exhibit, or an undamaged one of these subjects."""
    try:
        return prop.exhibit is None or read_json(_exhibit_path(prop, workdir))["of"] == _fingerprints(everyone)
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # a damaged one is made again
        return False


def _exhibit_path(prop: Property, workdir: Path) -> Path:
    return workdir / "exhibits" / f"{prop.name}.json"


def _fingerprints(everyone: list[Subject]) -> list[str]:
    return [subject.fingerprint for subject in everyone]


def _exhibit(prop: Property, everyone: list[Subject], evidence: Evidence, workdir: Path) -> None:
    """What a property shows of all subjects; made again where they are others."""
    if prop.exhibit and not _is_shown(prop, everyone, workdir):
        path = _exhibit_path(prop, workdir)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"of": _fingerprints(everyone), **prop.exhibit(everyone, evidence)})


def _portions(units: list[str], kind: str) -> list[list[str]]:
    """What is measured and written at a time: some subjects, but all pairs, which have subjects in common."""
    size = PORTION if kind == "scalar" else max(len(units), 1)
    return [units[first : first + size] for first in range(0, len(units), size)]


def units_of(name: str, everyone: list[Subject], study: Study) -> dict[str, tuple[Subject, ...]]:
    """What a property is measured on: every subject, or the pairs that it asks for."""
    prop = of_task(study.task["name"])[name]
    if prop.kind == "scalar":
        return {subject.id: (subject,) for subject in everyone}
    return {f"{a.id} | {b.id}": (a, b) for a, b in PAIRS[prop.pairs](everyone, study)}


def _with_teachers(everyone: list[Subject], study: Study) -> list[tuple[Subject, Subject]]:
    """Every subject with every run of the teacher's role (own, siblings, the floor) and of the fit it learned from."""
    return [
        (student, teacher)
        for student in everyone
        for teacher in everyone
        if teacher.fit in (study.roles.teacher, study.fits[student.fit].teacher) and teacher.id != student.id
    ]


def _all_pairs(everyone: list[Subject], study: Study) -> list[tuple[Subject, Subject]]:
    """Every two subjects once; teachers come first among `everyone`, so that a student stands before its teacher."""
    del study
    return [(later, first) for first, later in itertools.combinations(everyone, 2)]


def _of_one_architecture(everyone: list[Subject], study: Study) -> list[tuple[Subject, Subject]]:
    model = {name: study.models[fit.model] for name, fit in study.fits.items() if fit.answers != "online"}
    return [
        (a, b)
        for a, b in itertools.combinations(everyone, 2)
        if a.fit in model and b.fit in model and model[a.fit] == model[b.fit]
    ]


PAIRS = {"teachers": _with_teachers, "everyone": _all_pairs, "architecture": _of_one_architecture}


def evidence_of(lab: Lab) -> Evidence:
    """What the properties may look at: every network is loaded when it is asked, and those asked for last are kept."""
    study, tests = lab.study, lab.task.tests

    @functools.lru_cache(maxsize=PORTION)
    def network(subject: Subject) -> tuple[Model, Variables]:
        folder = fit_folder(study, subject.fit, lab.workdir) / subject.run
        return model_of(subject.fit, lab), load(folder, subject.step, lab)

    @functools.cache
    def ask(subject: Subject, split: str) -> Answers:
        try:
            return answer(*network(subject), tests[split].inputs)
        except FloatingPointError as error:
            raise FloatingPointError(f"{subject.id} on {split}: {error}") from error

    @functools.cache
    def looked_at(split: str):
        return gather(tests[split].inputs, evenly(tests[split].size, HIDDEN_EXAMPLES))

    return Evidence(
        tests,
        lambda *of: ask(*of).logits,
        (),
        nll=lambda *of: ask(*of).nll,
        network=network,
        asked=lambda subject, inputs: answer(*network(subject), inputs).logits,
        hidden=lambda subject, split: hidden(*network(subject), looked_at(split)),
        snapshots=lambda subject: snapshots(study, lab.workdir, subject),
        train=Dataset(gather(lab.task.train.inputs, evenly(lab.task.train.size, TRAIN_EXAMPLES)), {}),
        validation=lab.task.validation,
        validation_logits=functools.cache(lambda subject: answer(*network(subject), lab.task.validation.inputs).logits),
        fits=dataclasses.asdict(study.roles),
    )
