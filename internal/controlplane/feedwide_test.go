package controlplane_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/controlplane"
)

// TestFeedOfWideBinding: agents are told which resources may act by a binding
// that is for all of a type, as they come and go; and with the preview API off
// that it is locked.
func TestFeedOfWideBinding(t *testing.T) {
	f := newStopped(t)
	stop := f.start(func(cfg *controlplane.Config) { cfg.PreviewRoleBindings = true })
	f.enrolled(1)
	const workspaces = group + "/providers/Microsoft.MachineLearningServices/workspaces/"
	f.want(201, "PUT", workspaces+"One"+version, `{"identity":{"type":"SystemAssigned"}}`)
	f.want(200, "PUT", cluster+"/azureResourceRoleBindings/all"+version, `{"properties":{"role":"mlworkload"}}`)
	feed, _ := f.agent(reconciler()).open()
	told := func(names ...string) func(access.Desired) bool {
		return func(d access.Desired) bool {
			var have []string
			for _, id := range d.Bindings[0].Sources {
				have = append(have, id.String())
			}
			var want []string
			for _, name := range names {
				want = append(want, workspaces+name)
			}
			return slices.Equal(have, want)
		}
	}
	d := feed.until("the one that is there", told("One"))
	if b := d.Bindings[0]; b.Locked || !b.Source.IsSubscription() || len(b.Roles) != 1 || fmt.Sprint(b.Actors()) != fmt.Sprint(b.Sources) {
		t.Errorf("binding: %+v", b)
	}
	f.want(201, "PUT", workspaces+"two"+version, `{"identity":{"type":"SystemAssigned"}}`)
	feed.until("another", told("One", "two"))
	f.want(201, "PUT", workspaces+"none"+version, `{}`)                                               // no identity
	f.want(201, "PUT", workspaces+"One/computes/c"+version, `{"identity":{"type":"SystemAssigned"}}`) // another type
	f.want(201, "PUT", vault+version, `{"identity":{"type":"SystemAssigned"}}`)
	f.want(200, "DELETE", workspaces+"one"+version, "")
	feed.until("without the first", told("two"))
	feed.close()
	stop()

	f.start(nil)
	feed, _ = f.agent(reconciler()).open()
	feed.until("locked", func(d access.Desired) bool { return d.Bindings[0].Locked })
}
