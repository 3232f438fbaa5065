"""Short texts that have nothing to do with each other: how alike an embedding model finds what is unrelated."""

TEXTS = """
Bread needs time more than work. Mix flour, water and salt in the evening, fold the dough twice, and bake it in the
morning when it has doubled.

The harbour froze in January, and for eleven weeks no ship could leave. The pilots played cards and listened to the
ice move against the quay.

To replace the chain of a bicycle, shift to the smallest sprocket, push out one pin, and measure the new chain against
the old one before you close it.

The committee rejected the second reading of the tax bill by four votes, after two members of the governing party
stayed away.

A gall wasp lays her egg in the bud of an oak, and the tree grows a small round house around the larva, with walls
that taste of tannin.

He lost the final in the fifth set. His serve had gone, his left ankle was taped, and the crowd had begun to cheer for
the other man.

The theorem says that a continuous function on a closed interval takes its largest value somewhere. Without the end
points it need not.

My grandmother kept buttons in a biscuit tin: bone, brass, glass, one from a soldier's coat. We sorted them by colour
on rainy afternoons.

Granite forms where magma cools slowly underground, so its crystals are large enough to be seen. Basalt, which cools
in the open, is fine and dark.

Trains to the coast run every half hour until nine. On Sundays change at the junction, and keep your ticket: the gates
at the terminus read it again.

The cello enters alone, eight bars of a falling melody, before the strings join so quietly that the change is felt
rather than heard.

Tenants must report a leak within two days. The owner pays for the pipe, but not for carpets that were ruined because
nobody called.
"""
UNRELATED = tuple(" ".join(text.split()) for text in TEXTS.strip().split("\n\n"))
