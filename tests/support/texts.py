"""Five texts about five things; how many make a long call."""

# A call of this many texts has several parts on every device.
SEVERAL_PARTS = 1500

TEXTS = [
    "Vectors are compared by their angle.",
    "A cat sleeps on the warm windowsill.",
    "The harbour froze over in January.",
    "Bread rises because yeast makes gas.",
    "The parliament voted on the new budget.",
]
