"""Write shards of OpenWebText (paper scale) or Shakespeare's works (mini scale)."""

from tasks.data.text.prepare import DATA_SETS, KEYS, prepare

__all__ = ["DATA_SETS", "KEYS", "prepare"]
