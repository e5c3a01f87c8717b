"""``deltalab doctor``: findings about this machine, what computes, the cluster."""
