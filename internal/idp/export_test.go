package idp

// Sweep is what Run does each hour.
func (k *Keys) Sweep() error { return k.sweep() }
