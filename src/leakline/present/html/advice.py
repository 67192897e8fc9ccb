"""What to do about a finding, and how to read a chart: one sentence or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.present.text import place

if TYPE_CHECKING:
    from leakline.model.finding import Finding, Report

_GROWING = {
    "heap": "Whatever holds these blocks still points to them: look for a list, table, queue or cache without a bound.",
    "mapping": "See what the mapping is made of: leakline maps PID --diff, and leakline faults PID for who touches its pages.",
    "fd": "Descriptors are opened and not closed: ls -l /proc/PID/fd tells of what kind they are.",
    "thread": "Threads are started and not ended, or ended and neither joined nor detached.",
    "kernel counter": "Ask who has it: leakline kernel, and leakline kernel --locate for the line of the kernel.",
    "process": "Ask which mapping grows and who allocates it: leakline diagnose PID.",
}
READING = {
    "trend": "Read it so: grey is what was measured, from the least to the most of each moment; dots are floors, what it hardly "
    "falls below. A leak lifts the floors and does not stop.",
    "composition": "Read it so: the thickness of a band is what that group of mappings held (USS + swap). The band that gets "
    "thicker is the one to look into.",
    "flame": "Read it so: width is bytes, with what hangs on lost blocks. Each frame was called by the one towards the process; "
    "the framed one is the place to look at.",
    "treemap": "Read it so: the area of a box is how much that mapping holds; boxes of one colour are of one kind.",
    "faults": "Read it so: each column is a stretch of time, its height how many pages were asked for, its colours why.",
    "system": "Read it so: all bands together are MemTotal. What grows while “free” and “page cache” shrink has taken the memory; "
    "“unexplained” is what no counter of the kernel shows.",
    "slabs": "Read it so: the thickness of a band is what the kernel's objects in one cache take.",
    "table": "Read it so: the worst is on top; the small chart is the whole recording, from its least to its most. "
    "A name opens its chart.",
}


def what_to_do(finding: Finding, report: Report) -> str:
    """The next step."""
    where = None if finding.location is None else place(finding.location, finding.stack)
    kernel = report.target is None
    match finding.kind:
        case "definite" if where is None:
            return (
                "No pointer to these blocks is left. Who allocates them is not known yet: leakline trace PID, or "
                "leakline run -- COMMAND, records it."
            )
        case "definite":
            how = "free it or drop the reference" if kernel else "free it"
            return (
                f"No pointer to these blocks is left. Follow what {where} allocates to where its last pointer is overwritten "
                f"or goes out of scope, early returns and error paths too, and {how} before that."
            )
        case "indirect":
            return (
                "These hang on another lost block: whoever frees that one has to free these too. Mend the block they hang on first."
            )
        case "possible":
            return (
                "Only pointers into the middle of these blocks were found, or one look missed them. If the program does not keep "
                "such pointers on purpose, take them for lost; a second scan makes it sure."
            )
        case "reachable":
            return (
                "Something still points to them, so that is no leak by itself. See whether they become more: "
                "leakline scan PID --diff."
            )
        case "outstanding":
            return (
                "They were allocated while we looked, and not freed yet. Look for longer than the program keeps such things: "
                "leakline trace PID -d 60."
            )
        case "growing" if where is not None:
            return (
                f"More and more of what {where} allocates is kept. Look for what it is put into, and bound that or take it out "
                "again."
            )
        case "growing":
            return _GROWING[finding.subject.type]
