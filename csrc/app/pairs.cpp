#include "pairs.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <string_view>

#include "image_files.h"
#include "text.h"

namespace pe::gate {
namespace {

using Inode = std::pair<dev_t, ino_t>;

struct stat status_of(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) throw Error(system_error(errno, path));
    return status;
}

bool exists(const std::string& path) {
    struct stat status;
    return stat(path.c_str(), &status) == 0;
}

std::string file_name(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

std::vector<std::string> sorted_names(const std::string& folder) {
    DIR* listing = opendir(folder.c_str());
    if (listing == nullptr) throw Error(system_error(errno, folder));
    std::vector<std::string> names;
    while (const dirent* entry = readdir(listing)) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(name);
    }
    closedir(listing);
    std::sort(names.begin(), names.end(),
              [](const std::string& a, const std::string& b) { return code_points(a) < code_points(b); });
    return names;
}

// Calls `found` with each file below `root`.
template <class Found>
void walk(const std::string& root, Pairing& pairing, std::vector<Inode>& above, const Found& found) {
    const struct stat status = status_of(root);
    const Inode here(status.st_dev, status.st_ino);
    if (std::find(above.begin(), above.end(), here) != above.end()) {
        pairing.skipped.push_back(root + " (a link to a directory that holds it)");
        ++pairing.unwanted;
        return;
    }
    above.push_back(here);
    for (const std::string& name : sorted_names(root)) {
        // In the working directory, files have no folder in front, as pathlib has it.
        const std::string path = root == "." ? name : (root.back() == '/' ? root : root + "/") + name;
        if (name.front() == '.') {
            pairing.skipped.push_back((root == "." ? "./" : "") + path + " (hidden)");
        } else if (is_directory(path)) {
            walk(path, pairing, above, found);
        } else {
            found(path);
        }
    }
    above.pop_back();
}

using Images = std::map<std::u32string, std::pair<std::string, std::string>>;  // sort key: name, path

bool is_ignored(const std::string& relative, const std::vector<std::string>& patterns) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
        return matches(pattern, relative) ||
               (pattern.find('/') == std::string::npos && matches(pattern, file_name(relative)));
    });
}

Images images_in(const std::string& root, const char* side, const PairingRules& rules, Pairing& pairing) {
    Images images;
    std::vector<Inode> above;
    const std::size_t prefix = root == "." ? 0 : root.back() == '/' ? root.size() : root.size() + 1;
    walk(root, pairing, above, [&](const std::string& path) {
        std::string name = path.substr(prefix);
        if (is_ignored(name, rules.ignored)) {
            pairing.skipped.push_back(path + " (ignored)");
            return;
        }
        if (!is_image_file(path)) {
            pairing.skipped.push_back(path + " (not an image by its suffix)");
            ++pairing.unwanted;
            return;
        }
        if (rules.match_stem) name.resize(name.size() - suffix(path).size());
        const auto [entry, fresh] = images.try_emplace(code_points(name), name, path);
        if (!fresh) {
            throw Error(std::string(side) + ": expected one file with the stem '" + name + "', got " +
                        file_name(entry->second.second) + " and " + file_name(path));
        }
    });
    return images;
}

void check_exists(const std::string& path, const char* side) {
    if (!exists(path)) {
        throw Error(std::string(side) + ": expected a file or a directory, got " + path +
                    ", which does not exist");
    }
}

}  // namespace

bool is_directory(const std::string& path) {
    struct stat status;
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string tidy_path(const std::string& path) {
    std::string tidy = path.rfind("//", 0) == 0 && path.rfind("///", 0) != 0 ? "//"
                       : path.rfind('/', 0) == 0                             ? "/"
                                                                             : "";
    for (std::size_t start = 0; start < path.size();) {
        const std::size_t end = std::min(path.find('/', start), path.size());
        const std::string part = path.substr(start, end - start);
        if (!part.empty() && part != ".") {
            if (!tidy.empty() && tidy.back() != '/') tidy += '/';
            tidy += part;
        }
        start = end + 1;
    }
    return tidy.empty() ? "." : tidy;
}

Pairing find_pairs(const std::string& reference, const std::string& candidate, const PairingRules& rules) {
    check_exists(reference, "reference");
    check_exists(candidate, "candidate");
    const bool directories[] = {is_directory(reference), is_directory(candidate)};
    if (!directories[0] && !directories[1]) {
        return {{Pair{file_name(candidate), reference, candidate}}, {}, 0};
    }
    if (!directories[0] || !directories[1]) {
        throw Error("reference and candidate: expected two files or two directories, got " + reference +
                    " and " + candidate + ", one of each");
    }
    Pairing pairing;
    const Images references = images_in(reference, "reference", rules, pairing);
    const Images candidates = images_in(candidate, "candidate", rules, pairing);
    std::map<std::u32string, Pair> all;
    for (const auto& [key, image] : references) all[key] = {image.first, image.second, std::nullopt};
    for (const auto& [key, image] : candidates) {
        all[key].name = image.first;
        all[key].candidate = image.second;
    }
    for (auto& [key, pair] : all) {
        if (!pair.candidate && rules.allow_missing) {
            pairing.skipped.push_back(*pair.reference + " (no candidate)");
        } else if (!pair.reference && rules.allow_extra) {
            pairing.skipped.push_back(*pair.candidate + " (no reference)");
        } else {
            pairing.pairs.push_back(std::move(pair));
        }
    }
    if (pairing.pairs.empty()) {
        throw Error("reference and candidate: expected at least one pair of images, got none in " +
                    reference + " and " + candidate + " (" + std::to_string(pairing.skipped.size()) +
                    " files skipped)");
    }
    return pairing;
}

}  // namespace pe::gate
