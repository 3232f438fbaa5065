"""CVFP: a recurrent model whose contexts are trained towards a fixed point, then towards the next token."""
