package idp_test

import (
	"fmt"
	"testing"

	"github.com/sallyport/sallyport/internal/idp"
)

// TestDeviceFlood: whoever begins flows without end pushes out his own, and
// nobody else's.
func TestDeviceFlood(t *testing.T) {
	d := idp.NewDeviceFlows()
	d.Begin("FIRST", "192.0.2.1")
	for i := range 5_000 {
		d.Begin(fmt.Sprintf("FLOOD%d", i), fmt.Sprintf("2001:db8::%x", i+1)) // one network
	}
	d.Begin("LAST", "192.0.2.2")
	for i := range 5_000 {
		d.Begin(fmt.Sprintf("AGAIN%d", i), "192.0.2.3")
	}
	for _, code := range []string{"FIRST", "LAST", "FLOOD4999", "AGAIN4999"} {
		if !d.Waits(code) {
			t.Errorf("the flow %s is gone", code)
		}
	}
	if flows, networks := d.Counts(); flows != 1_000 || networks != 4 {
		t.Errorf("%d flows of %d networks", flows, networks)
	}
}
