package controlplane

// Remembered returns how many clusters' agents are known here.
func (c *ControlPlane) Remembered() int {
	c.feeds.mu.Lock()
	defer c.feeds.mu.Unlock()
	return max(len(c.feeds.seen), len(c.feeds.keys))
}
