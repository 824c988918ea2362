"""What the security master knows: statuses, history, fees. Pure rules and queries; the venues are asked elsewhere."""
