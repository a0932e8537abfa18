"""English words that say nothing of what an instruction is about: those of grammar, and those that any task has."""

from __future__ import annotations

GRAMMAR = frozenset(
    """
    a about above after again against all also am an and any are as at be because been before being below between both
    but by can cannot could d did do does doing done down during each either else every few for from further get had
    has have having he her here hers him his how i if in into is it its just ll m many may me might mine more most much
    must my near need no nor not of off on once only or other our out over own re s same shall she should since so some
    such t than that the their them then there these they this those through to too under until up upon us ve very want
    was we were what when where whether which while who whom whose why will with within without would yes you your
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)
TASKS = frozenset(
    """
    answer ask based best better brief can certain common compare consider could create day days describe design detail
    detailed determine develop difference different discuss do does effective example examples explain explore figure
    find following for generate give given go good help idea ideas include including information involve keep kind know
    like list long look main make making one people person please possible problem process provide question questions
    read real related s say see set short show simple some specific start step steps suggest take tell text thing things
    think time try two type understand use used using various want way ways well work would write writing written
    year years three first new
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)
