"""What the help says."""

from __future__ import annotations

HELP = (
    "↑ ↓ PgUp PgDn Home End   move; from Home on the first one stays",
    "Enter                    one process: mappings, faults, findings",
    "F3 /                     search; F3 or n goes on to the next",
    "F4 \\                     show only what has this; a|b: either",
    "F5 t                     tree        u   one user's processes",
    "F6 > <                   sort by     I   the other way round",
    "G M P N                  sort by growth, USS, PSS, number",
    "Space                    tag, to see sums; U untags all",
    "Z                        freeze the screen; sampling goes on",
    "Esc                      away with filter and search",
    "q F10 Ctrl-C             leave; F9 (kill) is not offered",
    "",
    "In a recording           ← →  a tick back, on   [ ]  a twentieth",
    "                         { }  begin, end        p    play, pause",
    "In one process           s  scan, after a question   Esc  back",
    "",
    "GROWTH and VERDICT are those of `leakline trend`, of USS + swap.",
    "! marks a limit that is reached within the horizon. - is unknown.",
)
