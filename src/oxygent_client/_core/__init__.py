"""Values and pure helpers: the ground that everything else stands on."""
