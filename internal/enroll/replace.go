package enroll

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/durable"
)

// How the CA is replaced, without a moment in which an agent trusts nothing
// that the gateway can show, or the gateway nothing that an agent can:
//
//  1. [Authority.Introduce] makes the new CA. The gateway takes certificates of
//     both, and has one of each to show.
//  2. Agents hear of it on their feed, over a connection that the old CA
//     vouches for, and trust both ([Client.Trust]). From then on they ask for
//     the new one ([pinName]), are shown its certificate, and get their own
//     from it. Who has not heard asks for the old one, or for none, and is
//     served as ever.
//  3. [Authority.Retire] drops the old CA once nobody needs it. The feed then
//     names the new one alone, and agents drop the old one too.
//
// What an agent has learned is in its memory only, since it has no place to
// write that a binding could not reach as well: its installed hash must be
// renewed, by a new manifest, before it starts again after step 3.

// Introduce makes a new CA beside the one there is, and returns its hash. The
// error wraps [access.ErrConflict] while an earlier one has not been retired.
func (a *Authority) Introduce() (hash string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cas) > 1 {
		return "", fmt.Errorf("CA %s follows %s already; retire that one first: %w", a.cas[1].hash, a.cas[0].hash, access.ErrConflict)
	}
	if err := createAuthority(filepath.Join(a.dir, followingFile), a.now()); err != nil {
		return "", fmt.Errorf("create agents' CA: %w: %w", err, access.ErrUnavailable)
	}
	c, err := a.read(followingFile)
	if err != nil {
		return "", err
	}
	a.cas = append(slices.Clone(a.cas), c)
	return c.hash, nil
}

// Retire drops the older of two CAs: certificates that it issued are good for
// nothing any more. The error wraps [access.ErrConflict] when there is one
// only.
func (a *Authority) Retire() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.cas) < 2 {
		return fmt.Errorf("CA %s is the only one; make another first: %w", a.cas[0].hash, access.ErrConflict)
	}
	err := os.Rename(filepath.Join(a.dir, followingFile), filepath.Join(a.dir, authorityFile))
	if err == nil {
		err = durable.SyncDir(a.dir)
	}
	if err != nil {
		return fmt.Errorf("retire agents' CA: %w: %w", err, access.ErrUnavailable)
	}
	a.cas = slices.Clone(a.cas[1:])
	clear(a.leaves)
	return nil
}

// trustedBy is the CA that a client asks for by the name in its handshake; of
// one that names none of them it is the older.
func (a *Authority) trustedBy(serverName string) ca {
	all := a.all()
	for _, c := range all {
		if strings.EqualFold(serverName, pinName(c.hash)) {
			return c
		}
	}
	return all[0]
}

// Trust has the agent trust the CAs with these hashes, the older first, and no
// other, until it ends. It must have them from a gateway that the CAs trusted
// so far vouched for. renew says that the newest is another than before: then
// connections are to be made anew, since the gateway means to take the older CA
// away. The error wraps [access.ErrInvalid], and then nothing is changed.
func (c *Client) Trust(hashes []string) (renew bool, err error) {
	if len(hashes) == 0 || len(hashes) > 2 {
		return false, fmt.Errorf("the gateway names %d CAs, must be 1 or 2: %w", len(hashes), access.ErrInvalid)
	}
	for _, hash := range hashes {
		if err := checkCAHash(hash); err != nil {
			return false, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.trusted()
	c.learned = slices.Clone(hashes)
	return before[len(before)-1] != hashes[len(hashes)-1], nil
}

// pins are the hashes of the CAs that are trusted, the older first.
func (c *Client) pins() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trusted()
}

// trusted needs the lock.
func (c *Client) trusted() []string {
	if c.learned == nil {
		return []string{c.CAHash}
	}
	return c.learned
}

// wanted is the CA that the agent's own certificate should be of.
func (c *Client) wanted() string {
	pins := c.pins()
	return pins[len(pins)-1]
}
