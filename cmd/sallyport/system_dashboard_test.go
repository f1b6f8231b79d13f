package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// served is what /metrics of some processes showed: the labels of each series'
// name, as a query would write it.
type served map[string]map[string]bool

// read adds one exposition. Prometheus itself adds job and instance.
func (s served) read(t *testing.T, text string) {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for name, family := range families {
		names := map[string][]string{name: nil}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = map[string][]string{name + "_bucket": {"le"}, name + "_sum": nil, name + "_count": nil}
		}
		for name, more := range names {
			if s[name] == nil {
				s[name] = map[string]bool{"job": true, "instance": true}
			}
			for _, label := range more {
				s[name][label] = true
			}
			for _, m := range family.GetMetric() {
				for _, l := range m.GetLabel() {
					s[name][l.GetName()] = true
				}
			}
		}
	}
}

// check holds a query to what is served: every metric exists, and has every
// label that it is selected by or grouped by.
func (s served) check(t *testing.T, where, query string) {
	t.Helper()
	for variable, value := range map[string]string{"$__rate_interval": "5m", "$__range": "1h", "$job": ".*"} {
		query = strings.ReplaceAll(query, variable, value)
	}
	expr, err := parser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return
	}
	selected := 0
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			selected++
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel {
					s.has(t, where, n.Name, m.Name)
				}
			}
			s.has(t, where, n.Name, "job")
		case *parser.AggregateExpr:
			for _, label := range n.Grouping {
				parser.Inspect(n.Expr, func(node parser.Node, _ []parser.Node) error {
					if v, ok := node.(*parser.VectorSelector); ok {
						s.has(t, where, v.Name, label)
					}
					return nil
				})
			}
		}
		return nil
	})
	if selected == 0 {
		t.Errorf("%s: %s selects nothing", where, query)
	}
}

func (s served) has(t *testing.T, where, metric, label string) {
	t.Helper()
	switch labels, ok := s[metric]; {
	case !ok:
		t.Errorf("%s: nobody serves %s", where, metric)
	case !labels[label]:
		t.Errorf("%s: %s has the labels %v, and no %q", where, metric, slices.Sorted(maps.Keys(labels)), label)
	}
}

// TestSystemDashboard asks of each query of the dashboard and of the alerts
// whether a server and an agent, after some traffic, serve what it asks for;
// and of each metric of ours whether the dashboard shows it.
func TestSystemDashboard(t *testing.T) {
	s := newSystem(t)
	id := s.register("prod")
	agent := s.install("prod", mlworkload)
	for half := range agent.args {
		agent.args[half] = append(agent.args[half], "--metrics-listen", "127.0.0.1:0")
	}
	agent.start()
	ml := s.source("ml")
	client := ml.client(id)
	ctx := t.Context()
	if _, err := client.CoreV1().Services("default").List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("allowed before consent")
	}
	s.bind("prod", "b1", ml.id, mlworkload)
	if _, err := client.CoreV1().Services("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	s.must("rolebinding", "delete", "--cluster-name", "prod", "-n", "b1", "--yes")
	if resp, _ := s.send(http.MethodGet, "/nonsense", "", ""); resp.StatusCode == http.StatusOK {
		t.Error("nonsense is served")
	}

	all := served{}
	for _, p := range []*process{s.server, agent.halves["proxy"], agent.halves["reconciler"]} {
		status, text := fetch(t, metricsURL(t, p)+"/metrics")
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", p.name, status, text)
		}
		lint(t, text)
		all.read(t, text)
	}
	queries := dashboard(t)
	for where, list := range queries {
		for _, query := range list {
			all.check(t, where, query)
		}
	}
	shown := strings.Join(slices.Concat(slices.Collect(maps.Values(queries))...), "\n")
	for name := range all {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "sallyport_") && !strings.Contains(shown, base) {
			t.Errorf("no panel shows %s", name)
		}
	}
	for where, query := range alerts(t) {
		all.check(t, where, query)
	}
}

// dashboard reads the queries of each panel.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	var board struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "sallyport.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	queries, ids := map[string][]string{}, map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.Title == "" {
			t.Errorf("panel %d %q: its id is taken, it is outside of the grid, or has no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries[p.Title] = append(queries[p.Title], target.Expr)
		}
	}
	if len(queries) < 20 {
		t.Fatalf("only %d panels were read", len(queries))
	}
	return queries
}

// alerts reads the expression of each alert.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			queries["alert "+rule.Alert] = rule.Expr
		}
	}
	if len(queries) == 0 {
		t.Fatal("no alerts were read")
	}
	return queries
}
