#!/usr/bin/env bash
# Builds what a release consists of: for each platform a binary and its software
# bill of materials (CycloneDX), and the checksums of all. The same commit and Go
# release give the same bytes in any folder, on any machine.
#
#   deploy/release.sh [VERSION [FOLDER]]     default: git's own, and dist/
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-$(git describe --tags --always --dirty)}
out=${2:-dist}
platforms=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64}
mkdir -p "$out"
out=$(cd "$out" && pwd)

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
if [ -z "${SBOM_SKIP:-}" ]; then
  (cd deploy/tools && GOOS= GOARCH= go build -trimpath -buildvcs=false -o "$tools/" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod)
fi

for platform in $platforms; do
  name="sallyport_${platform%/*}_${platform#*/}"
  binary=$name
  [ "${platform%/*}" != windows ] || binary=$name.exe
  echo "release: $binary"
  # No cgo: the binary needs nothing of the machine. No VCS stamp and no build
  # id: the version says which commit it is, and neither is of the source alone.
  export CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} GOFLAGS=
  go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$out/$binary" ./cmd/sallyport
  if [ -z "${SBOM_SKIP:-}" ]; then
    # What is linked into this binary, as the binary itself says, with the
    # licences that were found in the module cache; no serial number and no time,
    # which would be others each time. It asks no proxy: not for this module.
    GOPROXY=off "$tools/cyclonedx-gomod" bin -json -noserial -notimestamp -licenses -std -version "$version" -output "$out/$name.cdx.json" "$out/$binary"
  fi
done

cd "$out"
sha256sum sallyport_* >SHA256SUMS
echo "release: $(wc -l <SHA256SUMS) files of $version in $out"
