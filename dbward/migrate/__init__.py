"""Migration files on a client's disk, in the layout of dbmate: what they say, and what is wrong with them."""
