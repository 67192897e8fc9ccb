"""Who holds a block, in words: the path that a search found, with its root named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakline.model.heap import HeldKind as Kind
from leakline.model.heap import PathStep, Why
from leakline.model.names import readable
from leakline.model.registers import NAMES
from leakline.session.thread_stacks import thread_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leakline.model.heap import LostBlock
    from leakline.native.heap import RawStep, WhyNot
    from leakline.sources.heap_image import HeapImage
    from leakline.symbols.resolver import Resolver


def explain(
    image: HeapImage,
    resolver: Resolver,
    asked: int,
    found: Sequence[RawStep] | WhyNot,
    referrers: Sequence[RawStep],
    lost: Sequence[LostBlock],
) -> Why:
    """Put the answer of a search into words.

    Args:
        image: the process.
        resolver: names variables and types.
        asked: the address.
        found: the path, the block first; or why there is none.
        referrers: of a block that no root leads to.
        lost: all lost blocks.

    """
    block = next((b for b in lost if b.address <= asked < b.address + b.size), None)
    first_words = {
        step.address: image.copy.word(step.address) or 0 for step in (*([] if isinstance(found, str) else found), *referrers)
    }
    types = resolver.data_symbols(first_words.values())

    def steps(raw: Sequence[RawStep]) -> tuple[PathStep, ...]:
        return tuple(_step(step, types.get(first_words[step.address])) for step in raw)

    if isinstance(found, str):
        kind: Kind = block.kind if block is not None else "free" if found == "free" else "no block"
        address = None if block is None else block.address
        return Why(asked=asked, address=address, kind=kind, root=None, path=(), referrers=steps(referrers))
    first = found[-1]
    held: Kind = "reachable" if block is None else block.kind
    root = _value(image, first.held_at) if first.is_value else _place(image, resolver, first.held_at)
    return Why(asked=asked, address=found[0].address, kind=held, root=root, path=steps(found[::-1]), referrers=())


def _step(step: RawStep, kind: str | None) -> PathStep:
    held_at = None if step.is_value else step.held_at
    return PathStep(address=step.address, size=step.size, type=kind, held_at=held_at, interior=step.interior)


def _value(image: HeapImage, index: int) -> str:
    """A register, or what else is a root without being memory: in the order in which a search takes them."""
    for state in image.threads:
        if index < len(state.registers):
            return f"register {NAMES[index]} of thread {state.tid}"
        index -= len(state.registers)
        if index < len(state.extended):
            return f"a vector register of thread {state.tid}"
        index -= len(state.extended)
    if index < len([state for state in image.threads if state.thread_pointer]):
        return "a thread's table of TLS blocks"
    return "what glibc keeps of a thread that has ended, or what the kernel keeps for epoll or a timer"


def _place(image: HeapImage, resolver: Resolver, address: int) -> str:
    for state, (_, bounds) in zip(image.threads, thread_stacks(image), strict=True):
        if bounds is not None and bounds[0] <= address < bounds[1]:
            of_first = any(vma.path == "[stack]" and vma.start == bounds[0] for vma in image.vmas)
            return f"the stack{'' if of_first else ', or thread-local storage,'} of thread {state.tid}"
    variable = resolver.variable(address)
    vma = resolver.vma_at(address)
    if vma is not None and vma.path == "[stack]":
        return f"the stack of thread {image.pid}"
    if variable is not None:
        module, symbol, offset = variable
        return f"the data of {module}" if symbol is None else f"{symbol}{f'+{offset}' if offset else ''} in {module}"
    if vma is None:
        return "memory that is not mapped any more"
    return f"the mapping {readable(vma.path)}" if vma.path else f"the anonymous mapping at {vma.start:#x}"
