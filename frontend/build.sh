# Builds static/dist; the result is committed and the same bytes on every machine.
set -e
cd "$(dirname "$0")"
bin=node_modules/.bin
out=../static/dist
$bin/tailwindcss -i src/app.css -o $out/app.css --minify
for script in app playground theme; do
  $bin/esbuild src/$script.js --bundle --minify --format=esm --legal-comments=none \
    --outfile=$out/$script.js --log-level=warning
done
sed '/sourceMappingURL/d' node_modules/htmx.org/dist/htmx.min.js > $out/htmx.min.js
cat node_modules/basecoat-css/dist/js/basecoat.min.js \
    node_modules/basecoat-css/dist/js/sidebar.min.js \
    node_modules/basecoat-css/dist/js/dropdown-menu.min.js \
    node_modules/basecoat-css/dist/js/toast.min.js > $out/basecoat.js
