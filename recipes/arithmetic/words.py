"""The arithmetic world's vocabulary: the names, things, places and words that its texts are made of."""

NAMES = (
    "Ada Ben Cora Dan Eva Finn Gia Hugo Ida Jon Kira Leo Mia Nils Olga Paul Rosa Sam Tara Udo Vera Wim Yara Zoe".split()
)

THINGS = (
    "apples pears plums figs nuts eggs cakes rolls books pens cards coins stamps shells stones beads ropes bells cups "
    "plates lamps chairs boxes hats coats socks shoes kites balls drums".split()
)

PLACES = "market harbour garden school library forest station kitchen workshop bakery island village".split()

COUNTED = (
    "red blue green black white gold cat dog fox hen owl bee ant cow pig hello world sun moon star rain snow wind sea "
    "hill tree leaf rose fish bird stone cup lamp bell door key ring coat hat shoe bread milk salt tea map boat car "
    "bus road bridge tower king queen child song drum".split()
)

ADJECTIVES = "old new small big warm cold quiet bright heavy light round clean".split()

VERBS = (
    ("walked", "walks"),
    ("ran", "runs"),
    ("went", "goes"),
    ("drove", "drives"),
    ("hurried", "hurries"),
    ("travelled", "travels"),
)

ACTS = (
    "painted carried counted sold washed found lost wrapped sorted borrowed mended hid bought packed polished "
    "dropped".split()
)

WEATHER = "sunny rainy windy cloudy snowy foggy".split()

TIMES = "morning noon evening night".split()
