"""Spells out the abbreviated product names of The Complete Journey, so that a language model can read them."""

import re

_SPELLED = """
frzn froz: frozen | rfrgratd refrgratd refrig: refrigerated | pckgd pkgd: packaged | hh: household | ss: single serve
sngl sgl: single | srv: serve | dnr: dinner | dnrs: dinners | choc chococolate choococlate chococlate: chocolate
beeralemalt: beer ale malt | veg vegs: vegetables | brkfst: breakfast | carb crbntd: carbonated | bev: beverage
bevs: beverages | jce jui: juice | chix: chicken | sandwhiches: sandwiches | sandwic: sandwich | prem: premium
mult: multi | pk pac pks: pack | pkg: package | sply sup: supplies | spec: special | cond: condiments | btl: bottle
w: with | gm: general merchandise | rts: ready to serve | snk: snack | snks: snacks | sft: soft | drnk: drink
drnking drnkng: drinking | brd: bread | misc: miscellaneous | incl includi: including | hygn: hygiene | fem: feminine
crmd: creamed | dogfd: dog food | catfd: cat food | fd: food | mneral mnrl: mineral | wate wat: water
specilaty: specialty | preportnd: portioned | porton: portion | ov: oven | supplemen: supplement | stk: stick
vac: vacuum | wt: weight | flvr flvrd: flavored | conc: concentrate | containr: container | grnd: ground | gds: goods
elstc: elastic | bndges: bandages | suprt: support | cntrl: control | othe: other | saus: sausage | plstc: plastic
combin: combination | whl: whole | reg: regular | dsh: dish | tiss: tissue | handke: handkerchief | appl: appliances
ctlrytblclthstthpksst: cutlery tablecloths toothpicks | stationery: stationery | frgrnc: fragrance | bkfst: breakfast
saucessalsapicantee: sauces salsa picante | mach: machine | elec: electric | prod: products | prods: products
ex n o t b p g clu et sv br iws pse dxm ppk:
"""
_WORDS = {
    short: long.strip()
    for entry in _SPELLED.replace("\n", " | ").split(" | ")
    if ":" in entry
    for shorts, long in [entry.split(":")]
    for short in shorts.split()
}


def readable(text: str) -> str:
    """A product name in lower-case words, each once: "FRZN SS DNRS" is "frozen single serve dinners"."""
    words = re.findall(r"[a-z0-9%']+", text.lower())
    spelled = " ".join(_WORDS.get(word, word) for word in words).split()
    # Pack sizes such as "18&15pk" or "2 liter" tell nothing that the rest of the name does not.
    kept_words = [word for word in spelled if not re.fullmatch(r"\d+(pk|pc|ct|oz|lb)?", word)]
    return " ".join(dict.fromkeys(kept_words or words))
