"""From the Gram matrix of the objectives' gradients to the weights that combine them."""
