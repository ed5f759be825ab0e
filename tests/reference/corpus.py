"""The text from which every tokenizer is made and every test text is cut; written for this project."""

PARAGRAPHS = (
    "A small harbour town wakes before the sun. Nets are mended on the quay, ropes are coiled, and the "
    "first boat leaves with its lamp still burning. By noon the market smells of salt, lemons and warm "
    "bread.",
    "The library keeps its oldest maps in flat drawers. Readers ask for them by number, wear thin gloves, "
    "and turn each sheet slowly; the ink has faded, yet every river and every road can still be followed.",
    "Engineers test a bridge by loading it with trucks full of sand. Sensors under the deck report how "
    "far the steel bends, and the numbers are compared with the model that was computed years earlier.",
    "When the kettle boils, pour the water over the leaves and wait three minutes. Green tea wants cooler "
    "water than black tea, and both turn bitter if they are forgotten on the table.",
    "Snow fell through the night and the trains stopped running. Children built a fort behind the school "
    "while their parents cleared the steps, scattered ash, and talked about the winter of 1987.",
    "A query is short and a document is long, so a search engine compares their vectors rather than their "
    "words. Two sentences about the same thing should lie close together even if they share no term at "
    "all.",
    "The orchestra tunes to a single note from the oboe. Violins answer first, then the violas and "
    "cellos, and at last the brass; silence follows, somebody coughs, and the conductor lifts both hands.",
    "Our garden has 12 apple trees, 3 pears and one stubborn fig. Blackbirds eat what they can reach; the "
    "rest is pressed for juice in October, about 140 litres in a good year.",
)
TEXT = " ".join(PARAGRAPHS)
WORDS = tuple(TEXT.split())
