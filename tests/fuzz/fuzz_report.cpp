// Reports on hostile names, errors and metadata: JSON that parses back to the same, CSV in its columns,
// tables without anything that a terminal obeys.
#include <algorithm>
#include <array>
#include <clocale>
#include <string>
#include <vector>

#include "app/report.h"
#include "app/text.h"
#include "fuzz.h"

namespace {

constexpr std::size_t kCsvColumns = 11;

bool is_escaped_byte(char32_t point) { return point >= 0xDC00 && point < 0xDD00; }

bool is_utf8(const std::string& text) {
    const std::u32string points = pe::gate::code_points(text);
    return std::none_of(points.begin(), points.end(), is_escaped_byte);
}

void check_terminal(const std::string& text) {
    for (const char32_t point : pe::gate::code_points(text)) {
        REQUIRE(point >= ' ' || point == '\n');
        REQUIRE(point != 0x7F && !(point >= 0x80 && point < 0xA0) && !is_escaped_byte(point));
    }
}

// RFC 4180. The number of rows.
std::size_t check_csv(const std::string& text) {
    REQUIRE(is_utf8(text));
    std::size_t rows = 0, fields = 1;
    bool quoted = false, at_start = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (quoted) {
            if (c != '"') continue;
            const bool doubled = i + 1 < text.size() && text[i + 1] == '"';
            quoted = doubled;
            i += doubled ? 1 : 0;
        } else if (c == '"') {
            REQUIRE(at_start);
            quoted = true;
            at_start = false;
        } else if (c == ',') {
            ++fields;
            at_start = true;
        } else if (c == '\n') {
            REQUIRE(fields == kCsvColumns);
            ++rows;
            fields = 1;
            at_start = true;
        } else {
            REQUIRE(c != '\r');
            at_start = false;
        }
    }
    REQUIRE(!quoted && at_start);
    return rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t bytes) {
    static const fuzz::Counts counts;
    // As pe_gate does: which characters can be printed is the locale's.
    static const bool has_locale = std::setlocale(LC_CTYPE, "C.UTF-8") != nullptr;
    REQUIRE(has_locale);
    if (bytes < 2) return 0;
    const unsigned options = data[0];
    const std::string text(fuzz::text_of(data + 1, bytes - 1));
    const std::size_t third = text.size() / 3;
    const std::array<std::string, 3> parts = {text.substr(0, third), text.substr(third, third),
                                              text.substr(2 * third)};

    pe::gate::Report report;
    report.threshold = options / 7.0;
    pe::gate::Result first;
    first.name = parts[0];
    first.reference = parts[1];
    first.candidate = parts[2];
    first.verdict = pe::gate::Verdict(options % 3);
    first.score = 0.25;
    first.width = 3;
    first.height = 4;
    first.warnings = {parts[1], parts[2]};
    first.map = parts[2];
    if (options & 4) first.error = parts[0];
    pe::gate::Result second = first;
    second.name = parts[2];
    second.score.reset();
    report.results = {first, second};
    report.skipped = {parts[0] + " (hidden)", parts[1]};
    report.settings["reference"] = parts[0];
    report.metric["path"] = parts[2];
    if (options & 8) report.error = parts[1];

    const std::string json = report.to_json();
    for (const char c : json) REQUIRE((c >= ' ' && c <= '~') || c == '\n');
    REQUIRE(check_csv(report.to_csv()) == report.results.size() + 1);
    check_terminal(report.to_table(options & 16, options & 32, false));
    check_terminal(report.skipped_note());
    check_terminal(pe::gate::printable(text));

    // Bytes that are not UTF-8 are lone surrogates in JSON, as Python writes them, which this parser refuses.
    if (std::all_of(parts.begin(), parts.end(), is_utf8)) {
        const auto back = nlohmann::json::parse(json);
        REQUIRE(back["results"][0]["name"] == parts[0] && back["results"][0]["reference"] == parts[1]);
        REQUIRE(back["results"][1]["candidate"] == parts[2] && back["skipped"][1] == parts[1]);
        REQUIRE(back["settings"]["reference"] == parts[0] && back["metric"]["path"] == parts[2]);
        ++counts.taken;
    } else {
        ++counts.refused;
    }
    return 0;
}
