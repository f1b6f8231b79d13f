package addresses_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/access"
	"github.com/sallyport/sallyport/internal/addresses"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample has the members of the published files.
const sample = `{
  "changeNumber": 329,
  "cloud": "Public",
  "values": [
    {
      "name": "AzureMachineLearning",
      "id": "AzureMachineLearning",
      "properties": {
        "changeNumber": 46, "region": "", "regionId": 0, "platform": "Azure", "systemService": "AzureMachineLearning",
        "addressPrefixes": ["192.0.2.0/24", "198.51.100.7", "2001:db8:1::/48"],
        "networkFeatures": ["API", "NSG", "UDR", "FW"]
      }
    },
    {
      "name": "AzureMachineLearning.WestEurope",
      "id": "AzureMachineLearning.WestEurope",
      "properties": {
        "changeNumber": 3, "region": "westeurope", "regionId": 18, "platform": "Azure", "systemService": "AzureMachineLearning",
        "addressPrefixes": ["192.0.2.64/26", "::ffff:198.51.100.9/128"],
        "networkFeatures": null
      }
    },
    {"name": "Sql.EastUS2", "id": "Sql.EastUS2", "properties": {"addressPrefixes": ["203.0.113.5/28"]}}
  ]
}`

func TestServiceTags(t *testing.T) {
	for name, text := range map[string]string{"as published": sample, "with a byte order mark": "\ufeff" + sample} {
		t.Run(name, func(t *testing.T) {
			tags, err := addresses.ParseServiceTags(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct{ ranges, in, out string }{
				{"AzureMachineLearning", "192.0.2.1 192.0.2.65 198.51.100.7 2001:db8:1::9", "198.51.100.8 203.0.113.5 2001:db8:2::"},
				{"azuremachinelearning.WESTEUROPE", "192.0.2.65 198.51.100.9", "192.0.2.1 198.51.100.7"},
				{"Sql.EastUS2,10.0.0.0/8", "203.0.113.0 203.0.113.15 10.1.1.1", "203.0.113.16 11.0.0.0"},
				{"sql.eastus2,AzureMachineLearning", "203.0.113.0 192.0.2.1", "10.0.0.1"},
			} {
				s := set(t, tags, strings.Split(tc.ranges, ",")...)
				for _, a := range strings.Fields(tc.in) {
					if !s.Contains(addr(t, a)) {
						t.Errorf("%s does not contain %s", tc.ranges, a)
					}
				}
				for _, a := range strings.Fields(tc.out) {
					if s.Contains(addr(t, a)) {
						t.Errorf("%s contains %s", tc.ranges, a)
					}
				}
			}
			for name, says := range map[string]string{
				"AzureMachineLearning.WestEurop": "did you mean AzureMachineLearning.WestEurope",
				"AzureMachineLearning.Mars":      "did you mean AzureMachineLearning?",
				"sql.eastus":                     "did you mean Sql.EastUS2?",
				"Nothing":                        "see the names in the file",
			} {
				if _, err := tags.Set([]string{name}); !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), says) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

func TestServiceTagsRefused(t *testing.T) {
	one := func(name, prefixes string) string {
		return `{"values":[{"name":"` + name + `","properties":{"addressPrefixes":` + prefixes + `}}]}`
	}
	for name, tc := range map[string]struct{ text, says string }{
		"empty":             {"", "not a JSON object"},
		"cut off":           {sample[:len(sample)/2], "wrong near"},
		"two values":        {sample + sample, "more than one"},
		"no values":         {`{"changeNumber":1}`, "ServiceTags_Public"},
		"values twice":      {`{"values":[],"Values":[]}`, "twice"},
		"not a list":        {one("A", `"10.0.0.0/8"`), "cannot unmarshal"},
		"not a prefix":      {one("A", `["10.0.0.0/99"]`), "tag A"},
		"tag as a prefix":   {one("A", `["B"]`), "tag A"},
		"no name":           {one("", `[]`), "not a tag's name"},
		"name of a range":   {one("10.0.0.0", `[]`), "not a tag's name"},
		"one tag twice":     {`{"values":[{"name":"A"},{"name":"a"}]}`, "twice"},
		"nested too deeply": {`{"values":[{"x":[[[[]]]]}]}`, "nested"},
	} {
		if _, err := addresses.ParseServiceTags(strings.NewReader(tc.text)); !errors.Is(err, access.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := addresses.ParseServiceTags(endless{}); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("a file without end: %v", err)
	}
}

// endless is a file without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestFollow: sets made before follow the file, one whose tag is gone contains
// nothing, and a file that cannot be read changes nothing.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tags.json")
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := addresses.OpenServiceTags(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	replace(sample)
	tags, err := addresses.OpenServiceTags(path)
	if err != nil {
		t.Fatal(err)
	}
	s := set(t, tags, "Sql.EastUS2", "10.0.0.0/8")
	later, err := tags.StoredSet([]string{"Sql.EastUS3"}) // accepted when the file had it
	if err != nil || later.Contains(addr(t, "203.0.113.5")) {
		t.Fatalf("a stored tag that the file lacks: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		const every = 10 * time.Second
		var log strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- tags.Follow(ctx, every, slog.New(slog.NewTextHandler(&log, nil))) }()
		look := func() { // until the file has been looked at once more
			time.Sleep(every)
			synctest.Wait()
		}
		holds := func(when, a string, want bool) {
			t.Helper()
			if s.Contains(addr(t, a)) != want {
				t.Errorf("%s: contains %s: %v", when, a, !want)
			}
		}
		look()
		holds("at first", "203.0.113.1", true)

		replace(strings.Replace(sample, "203.0.113.5/28", "203.0.113.128/25", 1))
		look()
		holds("after a change", "203.0.113.1", false)
		holds("after a change", "203.0.113.129", true)

		replace(sample[:100])
		look()
		look()
		holds("after half a file", "203.0.113.129", true)

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		look()
		holds("without a file", "203.0.113.129", true)

		replace(strings.Replace(sample, `"Sql.EastUS2"`, `"Sql.EastUS3"`, 1))
		look()
		holds("without the tag", "203.0.113.129", false)
		holds("without the tag", "203.0.113.5", false)
		if !later.Contains(addr(t, "203.0.113.5")) {
			t.Error("a stored set does not follow a tag that the file has got")
		}
		holds("without the tag, own range", "10.1.2.3", true)

		replace(sample)
		look()
		holds("with the tag again", "203.0.113.1", true)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// Half a file, though it was looked at twice, and none.
		if n := strings.Count(log.String(), "stay in force"); n != 2 {
			t.Errorf("%d failures were logged, not 2:\n%s", n, log.String())
		}
	})
}

// TestStoredSet: a rule whose tags nobody knows now is still a rule.
func TestStoredSet(t *testing.T) {
	s, err := new(addresses.Tags).StoredSet([]string{"Storage", "10.0.0.0/8"})
	if err != nil || s.Contains(addr(t, "192.0.2.1")) || !s.Contains(addr(t, "10.1.1.1")) {
		t.Errorf("without a file: %v", err)
	}
	if _, err := new(addresses.Tags).StoredSet([]string{"10.0.0.1/8"}); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("a wrong range: %v", err)
	}
}

// FuzzServiceTags: of a file that is taken, each tag contains what the plainest
// reader finds below its name, and nothing else: the reader reads every list
// anew and compares with each of its ranges in turn.
func FuzzServiceTags(f *testing.F) {
	for _, text := range []string{
		sample, "\ufeff" + sample,
		`{"values":[{"name":"A","properties":{"addressPrefixes":["10.0.0.0/8"]}}]}`,
		`{"values":[{"name":"A","properties":{"addressPrefixes":["10.0.0.0/8","10.0.0.1","10.128.0.0/9","::/0"]}},{"name":"a.B"}]}`,
		`{"values":[{"name":"A","properties":{"addressPrefixes":["::ffff:10.0.0.1/97"]}}]}`,
		`{"values":[{"name":"A","NAME":"B"}]}`, `{"values":[null]}`, `{"values":[{"name":"A","properties":null}]}`,
	} {
		f.Add(text, "10.0.0.1")
		f.Add(text, "::ffff:192.0.2.65")
	}
	f.Fuzz(func(t *testing.T, text, address string) {
		tags, err := addresses.ParseServiceTags(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, access.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		var file struct {
			Values []struct {
				Name       string
				Properties struct{ AddressPrefixes []string }
			}
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "\ufeff")), &file); err != nil {
			t.Fatalf("%q: taken, and is not JSON: %v", text, err)
		}
		at, err := netip.ParseAddr(address)
		if err != nil {
			at = netip.MustParseAddr("10.0.0.1")
		}
		for _, tag := range file.Values {
			s, err := tags.Set([]string{strings.ToUpper(tag.Name)})
			if err != nil {
				t.Fatalf("%q: tag %q: %v", text, tag.Name, err)
			}
			want := slices.ContainsFunc(tag.Properties.AddressPrefixes, func(text string) bool { return within(t, text, at) })
			if got := s.Contains(at); got != want {
				t.Fatalf("%q: tag %q contains %s: %v, want %v", text, tag.Name, at, got, want)
			}
		}
	})
}

// within compares an address and a range bit by bit, with package net's code.
func within(t *testing.T, text string, at netip.Addr) bool {
	if !strings.Contains(text, "/") {
		return net.ParseIP(text).Equal(net.ParseIP(at.WithZone("").String()))
	}
	_, network, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatalf("taken, and is not a range: %v", err)
	}
	return network.Contains(net.ParseIP(at.WithZone("").String()))
}

// BenchmarkParseServiceTags reads a file as large as the public cloud's.
func BenchmarkParseServiceTags(b *testing.B) {
	text := publishedText(3000, 40)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := addresses.ParseServiceTags(strings.NewReader(text)); err != nil {
			b.Fatal(err)
		}
	}
}
