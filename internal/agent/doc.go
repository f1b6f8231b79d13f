// Package agent is the process in the cluster. It dials out, never listens,
// and has two halves that trust each other with nothing:
//
//   - The proxy serves what comes through the tunnel. Its account may do one
//     thing, impersonate its bindings' users, and it serves only bindings that
//     it learned on its own feed from the control plane, by name and uid. A
//     gateway that was taken over cannot make it act for anybody else.
//   - The reconciler writes the roles and takes no remote traffic. What it may
//     grant is bounded by what its own account holds, which the owner chose at
//     install.
//
// Each half has its own service account, its own certificate and its own feed.
// They may run in two processes (as the manifest installs them) or in one.
// Keys live in memory only; after the first enrolment a pod gets its
// certificate by showing its projected service-account token.
//
// The proxy also refuses what a policy has locked or ended, and cuts it when its
// time is over, by its own clock and without the gateway. It does not see where
// requests come from: source ranges are the gateway's alone.
//
// An agent that has not heard from the control plane for five seconds serves
// nothing: it cannot know whether a consent still stands.
package agent
