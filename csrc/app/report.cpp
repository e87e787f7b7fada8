#include "report.h"

#include <algorithm>
#include <array>

#include "text.h"

namespace pe::gate {
namespace {

constexpr int kFormat = 1;

template <class T>
Json json_of(const std::optional<T>& value) {
    return value ? Json(*value) : Json();
}

Json json_of_result(const Result& result) {
    Json json;
    json["name"] = result.name;
    json["reference"] = json_of(result.reference);
    json["candidate"] = json_of(result.candidate);
    json["verdict"] = name_of(result.verdict);
    json["score"] = json_of(result.score);
    json["width"] = json_of(result.width);
    json["height"] = json_of(result.height);
    json["error"] = json_of(result.error);
    json["warnings"] = result.warnings.empty() ? Json::array() : Json(result.warnings);
    json["map"] = json_of(result.map);
    return json;
}

std::string joined(const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : "; ") + part;
    return text;
}

// Bytes that are not UTF-8, which a CSV file is, are written as escapes.
std::string csv_field(const std::string& value) {
    std::string text;
    for (const char32_t point : code_points(value)) {
        text += point >= 0xDC00 && point < 0xDD00 ? escape(point) : encode(point);
    }
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string quoted = "\"";
    for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
    return quoted + '"';
}

template <class T>
std::string number_field(const std::optional<T>& value) {
    if (!value) return {};
    if constexpr (std::is_floating_point_v<T>) {
        return repr(*value);
    } else {
        return std::to_string(*value);
    }
}

constexpr std::size_t kColumns = 5;
using Row = std::array<std::string, kColumns>;

const char* colour_of(const std::string& verdict) {
    return verdict == "pass" ? "\x1b[32m" : verdict == "fail" ? "\x1b[31m" : "\x1b[33m";
}

std::string cell(const std::string& text, int width, bool right) {
    const std::string padding(std::size_t(std::max(0, width - columns(text))), ' ');
    return right ? padding + text : text + padding;
}

std::string line(const Row& row, const std::array<int, kColumns>& widths, bool coloured) {
    std::string text = " ";
    for (std::size_t c = 0; c < kColumns; ++c) {
        const bool number = c == 1 || c == 2;
        const std::string shown = cell(row[c], widths[c], number);
        text += c == 0 ? "" : "   ";
        text += coloured && c == 3 ? colour_of(row[c]) + shown + "\x1b[0m" : shown;
    }
    return text + " \n";
}

}  // namespace

const char* name_of(Verdict verdict) {
    static constexpr const char* kNames[] = {"pass", "fail", "error"};
    return kNames[int(verdict)];
}

std::size_t Report::count(Verdict verdict) const {
    return std::size_t(std::count_if(results.begin(), results.end(),
                                     [&](const Result& result) { return result.verdict == verdict; }));
}

Verdict Report::verdict() const {
    if (error || results.empty() || count(Verdict::kError) != 0) return Verdict::kError;
    return count(Verdict::kFail) == 0 ? Verdict::kPass : Verdict::kFail;
}

std::string Report::to_json() const {
    Json json;
    json["format"] = kFormat;
    json["pe_runtime"] = PE_RUNTIME_VERSION;
    json["verdict"] = name_of(verdict());
    json["exit_code"] = exit_code();
    json["error"] = json_of(error);
    json["metric"] = metric;
    json["threshold"] = json_of(threshold);
    json["settings"] = settings;
    json["counts"] = {{"pairs", results.size()},
                      {"passed", count(Verdict::kPass)},
                      {"failed", count(Verdict::kFail)},
                      {"errors", count(Verdict::kError)}};
    json["results"] = Json::array();
    for (const Result& result : results) json["results"].push_back(json_of_result(result));
    json["skipped"] = skipped.empty() ? Json::array() : Json(skipped);
    return json_text(json) + "\n";
}

std::string Report::to_csv() const {
    std::string text = "name,reference,candidate,verdict,score,threshold,width,height,error,warnings,map\n";
    for (const Result& result : results) {
        text += csv_field(result.name) + ',' + csv_field(result.reference.value_or("")) + ',' +
                csv_field(result.candidate.value_or("")) + ',' + name_of(result.verdict) + ',' +
                number_field(result.score) + ',' + number_field(threshold) + ',' +
                number_field(result.width) + ',' + number_field(result.height) + ',' +
                csv_field(result.error.value_or("")) + ',' + csv_field(joined(result.warnings)) + ',' +
                csv_field(result.map.value_or("")) + '\n';
    }
    return text;
}

std::string Report::to_table(bool by_name, bool only_bad, bool coloured) const {
    std::vector<const Result*> shown;
    for (const Result& result : results) {
        if (!only_bad || result.verdict != Verdict::kPass || !result.warnings.empty())
            shown.push_back(&result);
    }
    if (!by_name) {
        std::stable_sort(shown.begin(), shown.end(), [](const Result* a, const Result* b) {
            const bool errors[] = {a->verdict == Verdict::kError, b->verdict == Verdict::kError};
            if (errors[0] != errors[1]) return errors[0];
            const double scores[] = {a->score.value_or(0), b->score.value_or(0)};
            return scores[0] != scores[1] ? scores[0] > scores[1]
                                          : code_points(a->name) < code_points(b->name);
        });
    }
    std::string text;
    if (!shown.empty()) {
        std::vector<Row> rows = {{"pair", "score", "threshold", "verdict", "remarks"}};
        for (const Result* result : shown) {
            std::vector<std::string> remarks = result->warnings;
            if (result->error) remarks.insert(remarks.begin(), *result->error);
            // Nine digits tell any two float32 apart: a score never looks equal to a threshold it exceeds.
            rows.push_back({printable(result->name), result->score ? general(*result->score, 9) : "",
                            threshold ? general(*threshold, 9) : "", name_of(result->verdict),
                            printable(joined(remarks))});
        }
        std::array<int, kColumns> widths = {};
        for (const Row& row : rows) {
            for (std::size_t c = 0; c < kColumns; ++c) widths[c] = std::max(widths[c], columns(row[c]));
        }
        int total = 3 * int(kColumns - 1);
        for (const int width : widths) total += width;
        const std::string blank(std::size_t(total) + 2, ' ');
        text = blank + '\n' + line(rows[0], widths, false) + ' ';
        for (int i = 0; i < total; ++i) text += "\u2500";
        text += " \n";
        for (std::size_t i = 1; i < rows.size(); ++i) text += line(rows[i], widths, coloured);
        text += blank + '\n';
    }
    return text + summary() + '\n';
}

std::string Report::summary() const {
    std::string verdict_name = name_of(verdict());
    std::transform(verdict_name.begin(), verdict_name.end(), verdict_name.begin(),
                   [](unsigned char c) { return std::toupper(c); });
    const std::string pairs = results.size() == 1 ? "1 pair" : std::to_string(results.size()) + " pairs";
    return verdict_name + ": " + pairs + ", " + std::to_string(count(Verdict::kPass)) + " passed, " +
           std::to_string(count(Verdict::kFail)) + " failed, " + std::to_string(count(Verdict::kError)) +
           " could not be judged";
}

std::string Report::skipped_note() const {
    constexpr std::size_t kShown = 10;
    if (skipped.empty()) return {};
    std::string text = "Skipped " + std::to_string(skipped.size()) + " files:";
    for (std::size_t i = 0; i < std::min(skipped.size(), kShown); ++i) text += "\n  " + printable(skipped[i]);
    if (skipped.size() > kShown) {
        text += "\n  and " + std::to_string(skipped.size() - kShown) + " more (all are in the JSON report)";
    }
    return text + '\n';
}

}  // namespace pe::gate
