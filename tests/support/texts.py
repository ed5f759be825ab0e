"""Five texts about five things."""

TEXTS = [
    "Vectors are compared by their angle.",
    "A cat sleeps on the warm windowsill.",
    "The harbour froze over in January.",
    "Bread rises because yeast makes gas.",
    "The parliament voted on the new budget.",
]
