"""Shoppers held out of training: chosen by a hash of their user_id, so that the same ones are, on any machine.

Their requests of the train and valid splits are left out; those of the test split stay, as requests of new shoppers.
"""

import hashlib

from equipoise.data.prepare.tables import Tables, one

_SCALE = 16**8


def held_out(user_id: str, share: float) -> bool:
    """Whether a user is held out where `share` of all users, 0 to 1, are."""
    return int(hashlib.md5(user_id.encode(), usedforsecurity=False).hexdigest()[:8], 16) < share * _SCALE


def drop_held_out(tables: Tables, share: float) -> None:
    """Leave the held-out users' requests of the train and valid splits out of `requests`, and count them."""
    if not share:
        return
    con = tables.con
    # The same arithmetic as in `held_out`: the first eight hexadecimal digits of the md5.
    theirs = f"CAST('0x' || substr(md5(user_id), 1, 8) AS UBIGINT) < {share} * {_SCALE}"
    left_out = one(con, f"SELECT count(*) FROM requests WHERE split < 2 AND {theirs}")[0]
    users = one(con, f"SELECT count(DISTINCT user_id) FROM requests WHERE {theirs}")[0]
    con.execute(f"DELETE FROM requests WHERE split < 2 AND {theirs}")
    tables.drop("train and valid requests of held-out users", left_out)
    tables.notes.append(f"{users} users are held out (data.split.holdout_users): only their test requests are kept.")
