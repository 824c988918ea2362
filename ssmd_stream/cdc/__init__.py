"""Change data capture: every committed change of the security master, in commit order, into JetStream."""
