"""Which findings a rule means, and reports without them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import msgspec

from leakline.analysis.merge import merged_suppressed
from leakline.model.finding import Finding, KindTotal, Report, Summary, Suppressed
from leakline.model.function_names import plain_name
from leakline.model.stack import Frame
from leakline.model.suppression import FramePattern, SuppressionRule

# Checkers show the function that allocated, or begin at its caller; a rule may name it or not.
_ALLOCATORS = (
    "malloc", "calloc", "realloc", "reallocarray", "memalign", "aligned_alloc", "posix_memalign", "valloc", "pvalloc",
    "operator new(unsigned long)", "operator new[](unsigned long)", "operator new(unsigned int)", "operator new[](unsigned int)",
    "_Znwm", "_Znam", "_Znwj", "_Znaj", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t", "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
)  # fmt: skip
_ALLOCATING = re.compile(
    r"(?:_*(?:libc_|interceptor_)?(?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|posix_memalign|valloc|pvalloc))$"
    r"|operator new"
)
_BELOW_MAIN = ("_start", "__libc_start_main", "__libc_start_call_main", "__libc_start_main_impl")
_LENGTH = re.compile(r"[1-9]\d{0,3}")


def suppress(reports: Sequence[Report], rules: Sequence[SuppressionRule]) -> tuple[list[Report], set[SuppressionRule]]:
    """The reports without the findings that a rule means, children's too; and the rules that were of use."""
    used: set[SuppressionRule] = set()
    return [_without(report, rules, used) for report in reports], used


def _without(report: Report, rules: Sequence[SuppressionRule], used: set[SuppressionRule]) -> Report:
    kept: list[Finding] = []
    left_out: list[tuple[Finding, SuppressionRule]] = []
    for finding in report.findings:
        rule = next((rule for rule in rules if matches(rule, finding)), None)
        if rule is None:
            kept.append(finding)
        else:
            left_out.append((finding, rule))
            used.add(rule)
    children = tuple(_without(child, rules, used) for child in report.children)
    sums = [
        Suppressed(rule=rule.name, source=rule.source, findings=1, bytes=finding.bytes, blocks=finding.blocks)
        for finding, rule in left_out
    ]
    return msgspec.structs.replace(
        report,
        findings=tuple(kept),
        children=children,
        summary=_summary(report.summary, [finding for finding, _ in left_out]),
        suppressed=merged_suppressed([*report.suppressed, *sums]),
    )


def _summary(summary: Summary, left_out: Iterable[Finding]) -> Summary:
    totals = {
        "definite": summary.definite,
        "indirect": summary.indirect,
        "possible": summary.possible,
        "reachable": summary.reachable,
    }

    def take(kind: str, size: int, blocks: int) -> None:
        total = totals.get(kind)
        if total is not None:
            totals[kind] = KindTotal(bytes=max(0, total.bytes - size), blocks=max(0, total.blocks - blocks))

    for finding in left_out:
        take(finding.kind, finding.bytes, finding.blocks)
        if finding.indirect_blocks:
            take("indirect", finding.indirect_bytes, finding.indirect_blocks)
    return Summary(**totals)


def matches(rule: SuppressionRule, finding: Finding) -> bool:
    """Whether the rule means this finding."""
    if rule.kinds is not None and finding.kind not in rule.kinds:
        return False
    if rule.fingerprint is not None:
        return rule.fingerprint == finding.fingerprint
    if rule.template is not None:
        return any(_template_in_frame(rule.template, frame) for frame in finding.stack)
    return rule.frames is not None and bool(finding.stack) and _stack_begins(rule.frames, finding.stack)


def wildcard(pattern: str, text: str, *, single: bool = True) -> bool:
    """Whether the whole text is what the pattern says: `*` is anything, `?` one character; in no more than n x m steps.

    Args:
        pattern: what it must be like.
        text: what it is.
        single: whether `?` is special.

    """
    at = place = 0
    star, resume = -1, 0
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume, at = at, place, at + 1
        elif at < len(pattern) and (pattern[at] == text[place] or (single and pattern[at] == "?")):
            at, place = at + 1, place + 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(letter == "*" for letter in pattern[at:])


def _template_in_frame(template: str, frame: Frame) -> bool:
    """LeakSanitizer's: anywhere in the text, unless `^` or `$` hold it to an end."""
    start = template.removeprefix("^")
    middle = start.removesuffix("$")
    whole = f"{'' if start != template else '*'}{middle}{'' if middle != start else '*'}"
    if any(text is not None and wildcard(whole, text, single=False) for text in (frame.function, frame.file, frame.module)):
        return True
    # It has the module's path there, we have its name.
    return frame.module is not None and "/" in middle and wildcard(f"*{whole.rpartition('/')[2]}", frame.module, single=False)


def _stack_begins(patterns: Sequence[FramePattern], stack: Sequence[Frame]) -> bool:
    """Whether the stack begins as the frames say. `...` stands for any number; each part between two is found at its earliest."""
    stack = _without_allocator(stack)
    patterns = _without_allocator_patterns(patterns)
    at = place = 0
    gap, resume = -1, 0
    while at < len(patterns):
        if patterns[at].kind == "any frames":
            gap, resume, at = at, place, at + 1
        elif place < len(stack) and _is_frame(patterns[at], stack[place]):
            at, place = at + 1, place + 1
        elif gap >= 0 and resume < len(stack):
            resume += 1
            at, place = gap + 1, resume
        else:
            return False
    return True


def _without_allocator(stack: Sequence[Frame]) -> Sequence[Frame]:
    first = next((i for i, frame in enumerate(stack) if frame.function is None or not _ALLOCATING.match(frame.function)), 0)
    return stack[first:]


def _without_allocator_patterns(patterns: Sequence[FramePattern]) -> Sequence[FramePattern]:
    """Valgrind's stacks begin with one frame of the allocator; with two where realloc calls malloc."""
    if not patterns or not _names_allocator(patterns[0]):
        return patterns
    return patterns[2:] if len(patterns) > 1 and patterns[1].pattern in _ALLOCATORS else patterns[1:]


def _names_allocator(pattern: FramePattern) -> bool:
    if pattern.kind == "module":
        return "vgpreload" in pattern.pattern or pattern.pattern.strip("*") == ""
    return pattern.kind == "function" and any(wildcard(pattern.pattern, name) for name in _ALLOCATORS)


def _is_frame(pattern: FramePattern, frame: Frame) -> bool:
    if pattern.kind == "function":
        return frame.function is not None and _is_function(pattern, frame.function)
    if pattern.kind == "module":
        if frame.module is None:
            return pattern.pattern.strip("*") == ""
        return wildcard(pattern.pattern.rpartition("/")[2] if "/" in pattern.pattern else pattern.pattern, frame.module)
    if frame.file is None or (pattern.line is not None and pattern.line != frame.line):
        return False
    return wildcard(pattern.pattern, frame.file) or wildcard(pattern.pattern, os.path.basename(frame.file))


def _is_function(pattern: FramePattern, function: str) -> bool:
    if pattern.pattern == "(below main)":
        return function == pattern.pattern or function in _BELOW_MAIN
    if wildcard(pattern.pattern, function):
        return True
    if not pattern.mangled:
        return wildcard(pattern.pattern, plain_name(function)) if "(" not in pattern.pattern else False
    if pattern.pattern.startswith("_Z"):  # with wildcards, which no demangler takes
        return _parts_in_order(_source_names(pattern.pattern), plain_name(function).split("::"))
    return plain_name(pattern.pattern) == plain_name(function)


def _source_names(mangled: str) -> list[str]:
    """The parts that are spelt out in a pattern: `_ZN3foo*3bar*` has foo and bar (<source-name>s of the Itanium C++ ABI)."""
    parts, at = [], 0
    while (digits := _LENGTH.search(mangled, at)) is not None:
        end = digits.end() + int(digits[0])
        parts.append(mangled[digits.end() : end].partition("*")[0])
        at = max(end, digits.end())
    return [part for part in parts if part]


def _parts_in_order(wanted: Sequence[str], parts: Sequence[str]) -> bool:
    rest = iter(parts)
    return bool(wanted) and all(any(part.startswith(one) for part in rest) for one in wanted)
