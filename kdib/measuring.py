"""The rows of a study: every property measured on every subject, or pair of subjects, that it was not measured on."""

import functools
from collections.abc import Callable

from kdib.answers import Answers, answer
from kdib.config import Study
from kdib.models.base import Model, Variables
from kdib.properties import of_task
from kdib.properties.base import Evidence
from kdib.records import Records, Row, Subject, read_json, write_json
from kdib.runs import fit_folder, subjects
from kdib.teaching import Lab, load_last, model_of

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
    network = _network(lab)
    ask = _asker(network, lab)
    for name in lab.study.properties:
        wanted = units_of(name, everyone, lab.study)
        missing = [unit for unit in wanted if unit not in done.setdefault(name, [])]
        for units in _portions(missing, properties[name].kind):
            pairs = [(wanted[unit][0], wanted[unit][1]) for unit in units if len(wanted[unit]) == 2]
            alone = [wanted[unit][0] for unit in units if len(wanted[unit]) == 1]
            evidence = Evidence(
                lab.task.tests,
                lambda *of: ask(*of).logits,
                pairs,
                lambda *of: ask(*of).nll,
                network,
                lambda subject, inputs: answer(*network(subject), inputs).logits,
            )
            stored = {row.key for row in rows.read()[0]}  # a crash between the rows and `measured.json` leaves some
            rows.append([row for row in properties[name].measure(alone, evidence) if row.key not in stored])
            done[name] += units
            write_json(done_path, done)


def _portions(units: list[str], kind: str) -> list[list[str]]:
    """What is measured and written at a time: some subjects, but all pairs, which have subjects in common."""
    size = PORTION if kind == "scalar" else max(len(units), 1)
    return [units[first : first + size] for first in range(0, len(units), size)]


def units_of(name: str, everyone: list[Subject], study: Study) -> dict[str, tuple[Subject, ...]]:
    """What a property is measured on: every subject, or every (student, teacher) pair."""
    if of_task(study.task["name"])[name].kind == "scalar":
        return {subject.id: (subject,) for subject in everyone}
    return {f"{student.id} | {teacher.id}": (student, teacher) for student, teacher in _pairs(everyone, study)}


def _pairs(everyone: list[Subject], study: Study) -> list[tuple[Subject, Subject]]:
    """Every subject with every run of the teacher's role (own, siblings, the floor) and of the fit it learned from."""
    return [
        (student, teacher)
        for student in everyone
        for teacher in everyone
        if teacher.fit in (study.roles.teacher, study.fits[student.fit].teacher) and teacher.id != student.id
    ]


def _network(lab: Lab) -> Network:
    """(model, variables) of a subject; those asked for last are kept."""

    @functools.lru_cache(maxsize=PORTION)
    def network(subject: Subject) -> tuple[Model, Variables]:
        folder = fit_folder(lab.study, subject.fit, lab.workdir) / subject.run
        return model_of(subject.fit, lab), load_last(folder, lab)

    return network


def _asker(network: Network, lab: Lab) -> Callable[[Subject, str], Answers]:
    """Answers to (subject, name of a test set), each computed once."""

    @functools.cache
    def ask(subject: Subject, split: str) -> Answers:
        return answer(*network(subject), lab.task.tests[split].inputs)

    return ask
