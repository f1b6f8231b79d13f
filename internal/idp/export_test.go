package idp

import "time"

// Sweep is what Run does each hour.
func (k *Keys) Sweep() error { return k.sweep() }

// Attempts are those of one provider.
type Attempts struct{ *attempts }

// NewAttempts has none yet.
func NewAttempts(now func() time.Time) Attempts { return Attempts{newAttempts(now)} }

// Allowed is allowed.
func (a Attempts) Allowed(user, address string) bool { return a.allowed(user, address) }

// Fail is fail.
func (a Attempts) Fail(user, address string) { a.fail(user, address) }

// DeviceFlows are those that wait for their users.
type DeviceFlows struct{ *deviceFlows }

// NewDeviceFlows has none yet.
func NewDeviceFlows() DeviceFlows { return DeviceFlows{newDeviceFlows()} }

// Begin adds a flow of that user code from an address.
func (d DeviceFlows) Begin(code, address string) {
	d.add(deviceFlow{deviceCode: "device " + code, userCode: code, network: network(address), expires: time.Now().Add(time.Hour)})
}

// Waits reports whether a flow is there.
func (d DeviceFlows) Waits(code string) bool {
	_, ok := d.pending(code, time.Now())
	return ok
}

// Counts are how many flows there are, and how many networks are counted.
func (d DeviceFlows) Counts() (flows, networks int) { return d.oldest.Len(), len(d.byNetwork) }
