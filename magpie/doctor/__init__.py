"""Can this model write instructions, and with which settings?"""
