"""A deterministic simulation of several workers over one store, with faults; a failing seed replays exactly.

``loop`` runs the workers as processes of one event loop in virtual time; ``store`` is the store they share and the unreliable
way to it; ``scenario`` draws what happens from a seed; ``log`` is what was seen; ``checker`` judges it; ``mutants`` are
mistakes in the engine that the checker has to find.
"""
