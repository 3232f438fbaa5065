"""A swarm whose nodes train on each other's rollouts (SAPO, arXiv 2509.08721): `docs/sapo.md`."""
