"""Random rotations, diagonal rescaling, and how incoherent a matrix is."""
