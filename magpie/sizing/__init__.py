"""How much of a GPU a model takes and how fast it can be there: shapes, cards, slots and a roofline.

The planner asks it before anything is loaded, and the engine when it loads a model, so that both come to the same
settings. Nothing here loads a model, and nothing touches a GPU.
"""
