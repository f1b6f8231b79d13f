# Nine targets, each naming the commands it runs. `make demo` and `make test` need nothing but Go.
LDFLAGS = -s -w -X main.version=$(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: build demo test chaos clients check fuzz bench release

# The first build compiles a real kube-apiserver, which takes minutes; later ones are quick.
# Without -buildvcs=false each commit would link it again, which takes a minute.
build:
	@echo "build: bin/sallyport"
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sallyport ./cmd/sallyport
	@[ -x bin/devcluster ] || echo "build: bin/devcluster and bin/kubectl (a real kube-apiserver: the first build takes about six minutes on two cores)"
	@cd devcluster && go build -trimpath -buildvcs=false -ldflags "$$(cat ldflags.txt)" -o ../bin/devcluster .
	@cd devcluster && go build -trimpath -ldflags "$$(cat ldflags.txt)" -o ../bin/kubectl k8s.io/kubernetes/cmd/kubectl
	@[ -x bin/helm ] || echo "build: bin/helm (the first build takes about a minute and a half)"
	@cd clients && go build -trimpath -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$$(go list -m -f '{{.Version}}' helm.sh/helm/v4)" -o ../bin/helm helm.sh/helm/v4/cmd/helm

demo: build
	@./demo.sh

test: build
	go vet ./...
	go test -race -timeout 30m ./...
	cd devcluster && go vet -trimpath ./... && go test -trimpath -timeout 10m ./...

# The real clients of Azure, pinned and under .clients/. What passes is written into README.md. Needs python3 with venv.
clients:
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sallyport ./cmd/sallyport
	@cd clients && go build -trimpath -ldflags '-s -w' -o ../bin/kubelogin github.com/Azure/kubelogin
	@./clients/install.sh
	cd clients && go vet -trimpath . && CLIENTS_TABLE=../README.md go test -trimpath -count=1 -timeout 30m .

# The long form of the tests that break things: 1,000 kills in the middle of a write, hundreds of whole processes under
# load, disks that are full or turn read-only, stepped clocks, etcd stopped and compacted. Six minutes on two cores; `make test` has
# the short form.
chaos: build
	SALLYPORT_CHAOS=1 go test -count=1 -timeout 60m -v -run 'TestKill|TestChaos|TestSealed|TestRotateKey|TestNoSpace|TestCompacted' ./internal/store ./internal/audit
	SALLYPORT_CHAOS=1 go test -count=1 -timeout 60m -v -run 'TestKill|TestChaos' ./cmd/sallyport
	go test -count=1 -timeout 30m -v -run TestItem34ReconnectStorm ./cmd/sallyport -storm 1000

# What CI runs besides the tests.
check:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go mod tidy -diff
	go tool staticcheck ./...

# Each fuzz target for FUZZTIME. To make each new input small takes most of the time, unless it is bounded.
FUZZTIME ?= 30s
fuzz:
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	  echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$p || exit 1; done; done

bench:
	go test -run '^$$' -bench . -benchtime 2s ./internal/tunnel ./internal/authenticate ./internal/gateway

# Binaries, bills of materials and checksums, in dist/.
release:
	@deploy/release.sh
