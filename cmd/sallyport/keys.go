package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/internal/idp"
)

func newKeysCommand(c *cli) *cobra.Command {
	cmd := newGroup("keys", "List and replace a server's own keys",
		newKeysListCommand(c), newKeysRotateCommand(c), newKeysRetireCommand(c))
	cmd.Long = `Lists and replaces the keys of a running server, through a socket in its data
folder: whoever may read that folder may use it, and nobody else. Each change is
in the server's audit log before it is made.

  signing     signs the embedded identity provider's tokens
  encryption  encrypts the records at rest; kept in --encryption-key-file
  ca          vouches for the server's TLS port and for agents' certificates`
	return cmd
}

// dataDirFlag is how verbs that speak to a server's socket find it.
func dataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", defaultServerConfig().DataDir, "data folder of the running server")
}

func newKeysListCommand(c *cli) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Show the keys there are, and what each is for now",
		Example: "  sallyport keys list --data-dir /var/lib/sallyport",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list keyList
			raw, err := newAdmin(dir).call(cmd.Context(), "GET", "/v1/keys", nil, &list)
			if err != nil {
				return err
			}
			rows := [][]string{{"KEY", "ID", "STATE", "SINCE", "UNTIL"}}
			for _, k := range list.Keys {
				rows = append(rows, []string{k.What, k.ID, k.State, keyTime(k.Since), keyTime(k.Until)})
			}
			return c.print(raw, rows...)
		},
	}
	dataDirFlag(cmd, &dir)
	return cmd
}

func keyTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func newKeysRotateCommand(c *cli) *cobra.Command {
	var dir string
	var r rotation
	cmd := &cobra.Command{
		Use:   "rotate signing|encryption|ca",
		Short: "Put a new key in the place of one that is in use",
		Long: fmt.Sprintf(`Makes a new key on the running server; nothing is interrupted.

signing: the new key is published at once and signs after %s, when verifiers
have fetched it; the old one is published for %s more, until the last token
that it signed has expired, and is then removed. --at-once makes the new key
sign now: a verifier that has not seen it fetches keys again.

encryption: the new key is written into the key file, and all records are
encrypted again. Keep a new copy of the key file. Backups made before need the
keys in them, which they hold.

ca: the new CA is trusted beside the old one, and agents hear of it on their
feed and connect under it within seconds, without losing a request. ca.crt in
the data folder then holds both. Before you go on to 'sallyport keys retire ca',
apply the agents' manifests again ('sallyport agent manifest') and renew
kubeconfigs and copies of ca.crt, since what knows the old CA alone will not
find the server any more.`, idp.KeyLead, idp.KeyOverlap),
		Example: `  sallyport keys rotate signing
  sallyport keys rotate encryption --data-dir /var/lib/sallyport`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.What = args[0]
			if r.What != keySigning && r.What != keyEncryption && r.What != keyCA {
				return usagef("key %q must be %s, %s or %s", r.What, keySigning, keyEncryption, keyCA)
			}
			if r.AtOnce && r.What != keySigning {
				return usagef("--at-once is for signing keys")
			}
			var done rotated
			raw, err := newAdmin(dir).call(cmd.Context(), "POST", "/v1/keys/rotate", r, &done)
			if err != nil {
				return err
			}
			return c.printRotated(r, done, raw)
		},
	}
	dataDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&r.AtOnce, "at-once", false, "the new signing key signs now, for when others may have the old one")
	return cmd
}

func (c *cli) printRotated(r rotation, done rotated, raw json.RawMessage) error {
	switch r.What {
	case keySigning:
		c.notef("new signing key %s signs from %s; the old one verifies until %s", done.ID, keyTime(done.From), keyTime(done.Until))
		if r.AtOnce {
			c.notef("if others have the old one: sallyport keys retire signing ID, see sallyport keys list")
		}
	case keyEncryption:
		c.notef("%d records are encrypted under the new key %s; keep a copy of the key file", done.Records, done.ID)
	case keyCA:
		c.notef("agents connect under the new CA; 'sallyport keys list' shows how many have. Next: new manifests, kubeconfigs and copies of ca.crt, then 'sallyport keys retire ca'")
	}
	return c.print(raw, []string{"KEY", "ID", "FROM"}, []string{r.What, done.ID, keyTime(done.From)})
}

func newKeysRetireCommand(c *cli) *cobra.Command {
	var dir string
	var r retirement
	cmd := &cobra.Command{
		Use:   "retire signing ID | retire ca",
		Short: "Take a key away that another one follows",
		Long: `signing: takes a key away before its time, because others may have it: this
server refuses every token that it signed from now on. Other verifiers do when
they fetch keys again. The key that signs cannot be retired; replace it first.

ca: ends a replacement ('sallyport keys rotate ca'). It is refused while an
enrolled cluster's agent has not connected under the new CA; with --force such
agents are cut off, and need a new manifest.`,
		Example: `  sallyport keys rotate signing --at-once
  sallyport keys list
  sallyport keys retire signing 4F2c...
  sallyport keys retire ca`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case args[0] == keySigning && len(args) == 2 && !r.Force:
				r.ID = args[1]
			case args[0] == keyCA && len(args) == 1:
			default:
				return usagef("%q cannot be retired so: name 'signing' and a key's id, or 'ca'", args)
			}
			r.What = args[0]
			var done retirement
			raw, err := newAdmin(dir).call(cmd.Context(), "POST", "/v1/keys/retire", r, &done)
			if err != nil {
				return err
			}
			return c.print(raw, []string{"KEY", "ID"}, []string{done.What, done.ID})
		},
	}
	dataDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&r.Force, "force", false, "retire the CA though agents depend on it, which are then cut off")
	return cmd
}
