"""How fast the kernels run on a GPU, beside flash-linear-attention: see ``__main__``."""
