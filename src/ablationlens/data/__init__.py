"""Model inputs together with the labels and the positions that an Output scores.

Everything is settled here once, before any model runs: what is padding, what each position should predict, which
positions count. Labels are stored *aligned*: ``labels[b, t]`` is what ``logits[b, t]`` should predict, so for the
default, the next token, it is token t + 1. ``-100`` means "no label".

Positions are counted over the real tokens of each example, from either end, so that the padding side changes nothing.
A batch without padding carries neither attention_mask nor position_ids (an all-ones mask can slow attention down); a
padded one carries both (GPT-2 with left padding and no position_ids is silently wrong).
"""

from ablationlens.data.batches import Batch as Batch
from ablationlens.data.inputs import Inputs as Inputs
from ablationlens.data.labels import NO_LABEL as NO_LABEL
from ablationlens.data.making import batch as batch
from ablationlens.data.positions import Positions as Positions
