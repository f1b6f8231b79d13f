package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/audit"
	"github.com/sallyport/sallyport/internal/controlplane"
	"github.com/sallyport/sallyport/internal/store"
)

const group = sub + "/resourceGroups/RG"

// fill gives the group two bindings of its cluster, and resources.
func (f *fixture) fill() {
	f.t.Helper()
	f.want(201, "PUT", vault+version, `{"identity":{"type":"SystemAssigned"}}`)
	f.want(201, "PUT", vault+"/backupPolicies/p"+version, `{}`)
	f.want(201, "PUT", binding+version, consentV)
	f.want(201, "PUT", cluster+"/trustedAccessRoleBindings/b2"+version, consentV)
	for i, scope := range []string{group, vault} {
		a := access.RoleAssignment{Name: fmt.Sprintf("00000000-0000-0000-0000-00000000000%d", i), Scope: id(f.t, scope), Role: "reader", TenantID: tenantID, PrincipalID: callers()["stranger"].ObjectID}
		_, err := f.store.RoleAssignments.Put(f.t.Context(), a, 0)
		must(f.t, err)
	}
}

// awaitResult polls a Location, woken by the store's watch, until it is not
// 202 any more.
func (f *fixture) awaitResult(header http.Header) int {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	status := 0
	err := f.store.Operations.Follow(ctx, "", func(store.Update[access.Operation]) {
		resp := f.do("owner", "GET", strings.TrimPrefix(header.Get("Location"), "https://arm.test:8443"), "")
		if status = resp.StatusCode; status != 202 {
			cancel()
		}
	})
	if status == 202 {
		f.t.Fatalf("still running: %v", err)
	}
	return status
}

// left says what the store still has below the group.
func (f *fixture) left() (left []string) {
	f.t.Helper()
	within := strings.ToLower(group) + "/"
	clusters, _, err := f.store.Clusters.List(f.t.Context(), within)
	must(f.t, err)
	for _, item := range clusters {
		left = append(left, item.Key)
	}
	bindings, _, err := f.store.Bindings.List(f.t.Context(), within)
	must(f.t, err)
	for _, item := range bindings {
		left = append(left, item.Key)
	}
	resources, _, err := f.store.Resources.List(f.t.Context(), within)
	must(f.t, err)
	for _, item := range resources {
		left = append(left, item.Key)
	}
	assignments, _, err := f.store.RoleAssignments.List(f.t.Context(), within)
	must(f.t, err)
	for _, item := range assignments {
		left = append(left, item.Key)
	}
	uids, _, err := f.store.ResourceUIDs.List(f.t.Context(), "")
	must(f.t, err)
	for _, item := range uids {
		left = append(left, item.Key)
	}
	return left
}

// TestDeleteGroup: all that is in a group goes with it, and is in the record.
func TestDeleteGroup(t *testing.T) {
	f := newFixture(t, nil)
	f.fill()
	_, header := f.want(202, "DELETE", group+version, "")
	if location := header.Get("Location"); header.Get("Retry-After") != "1" || header.Get("Azure-AsyncOperation") != "" || !strings.HasPrefix(location, "https://arm.test:8443"+sub+"/operationresults/") {
		t.Errorf("headers: %v", header)
	}
	if status := f.awaitResult(header); status != 200 {
		t.Errorf("result: %d, want 200", status)
	}
	if left := f.left(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	f.want(404, "GET", group+version, "")
	f.want(404, "DELETE", group+version, "")
	id := header.Get("x-ms-request-id")
	for _, path := range []string{group, cluster, vault, vault + "/backupPolicies/p"} {
		records := f.auditOf(func(r audit.Record) bool {
			return strings.EqualFold(r.Path, path) && r.Method == "DELETE" && r.ID == id && r.ObjectID == callers()["owner"].ObjectID && *r.Allowed
		})
		if len(records) != 1 {
			t.Errorf("%s: %d records, want 1", path, len(records))
		}
	}
	// Its name is free, and its cluster a new one.
	f.want(201, "PUT", group+version, `{"location":"westus"}`)
	f.want(404, "GET", cluster+version, "")
}

// TestDeleteGroupResumes: whatever step the deletion comes to and no further,
// nothing can be created in the group, and the next process goes on from there.
func TestDeleteGroupResumes(t *testing.T) {
	for step := range 4 { // pieces that are taken away: the cluster, two resources, and then only the group is left
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			f := newStopped(t)
			pieces := 0
			f.refuse = func(r audit.Record) bool {
				if !strings.HasPrefix(r.Reason, "with the deletion") {
					return false
				}
				pieces++
				return pieces > step
			}
			emptied := make(chan struct{}, 100)
			stop := f.start(func(cfg *controlplane.Config) {
				cfg.Settled = func(context.Context, int64) error { emptied <- struct{}{}; return errors.New("not yet") }
			})
			f.fill()
			_, header := f.want(202, "DELETE", group+version, "")
			select {
			case <-f.refused:
			case <-emptied:
			case <-time.After(20 * time.Second):
				t.Fatal("the deletion did not come to the step")
			}
			for _, c := range []struct{ method, url, body string }{
				{"PUT", group, `{"location":"eastus"}`},
				{"PATCH", group, `{"tags":{}}`},
				{"PUT", group + "/providers/Microsoft.ContainerService/managedClusters/new", `{"location":"eastus"}`},
				{"PUT", cluster + "/trustedAccessRoleBindings/new", consentV},
				{"PUT", group + "/providers/Microsoft.Web/sites/new", `{}`},
				{"PUT", vault, `{}`},
			} {
				resp := f.do("owner", c.method, c.url+version, c.body)
				gone := resp.StatusCode == 404 && strings.HasPrefix(c.url, cluster) // the cluster went already
				if resp.StatusCode != 409 && !gone {
					t.Errorf("%s %s: %d, want 409", c.method, c.url, resp.StatusCode)
				}
			}
			v, _ := f.want(200, "GET", group+version, "")
			if got := at(v, "properties.provisioningState"); got != "Deleting" {
				t.Errorf("state %v, want Deleting", got)
			}
			if _, again := f.want(202, "DELETE", group+version, ""); again.Get("Location") != header.Get("Location") {
				t.Errorf("deleted again: %s, want the same operation", again.Get("Location"))
			}
			stop()
			if _, err := f.store.Groups.Get(t.Context(), group); err != nil {
				t.Fatalf("nothing was left for the next process: %v", err)
			}
			f.refuse = nil
			f.start(nil)
			if status := f.awaitResult(header); status != 200 {
				t.Errorf("result: %d, want 200", status)
			}
			if left := f.left(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// TestDeleteGroupRace: of those who create while a group is deleted, each is
// either refused or what he created is deleted.
func TestDeleteGroupRace(t *testing.T) {
	f := newFixture(t, nil)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			f.do("owner", "PUT", fmt.Sprintf("%s/providers/Microsoft.Web/sites/s%d%s", group, i, version), `{}`)
		})
		wg.Go(func() {
			f.do("owner", "PUT", fmt.Sprintf("%s/providers/Microsoft.ContainerService/managedClusters/k%d%s", group, i, version), `{"location":"eastus"}`)
		})
		wg.Go(func() {
			f.do("owner", "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/b%d%s", cluster, i, version), consentV)
		})
	}
	_, header := f.want(202, "DELETE", group+version, "")
	wg.Wait()
	f.awaitResult(header)
	if left := f.left(); len(left) > 0 {
		t.Errorf("slipped in: %q", left)
	}
}
