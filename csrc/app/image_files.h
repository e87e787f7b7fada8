// Which files of a folder are images, judged or not: one that is passed over unseen would pass.
#pragma once

#include <string>
#include <string_view>

namespace pe::gate {

// ".png" of "a/b.png"; the empty text where there is none.
std::string suffix(const std::string& path);

// Whether the suffix or the content is that of an image of any kind. A file that cannot be opened counts as
// one, and fails when it is read; what is no regular file is not opened.
bool is_image_file(const std::string& path);

// Whether a shell pattern matches all of a text, as Python's fnmatch.fnmatchcase: * any text, ? any
// character, [ab-d] and [!ab-d] one of a set or of the others. glibc's fnmatch() has more, some of it by the
// locale.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace pe::gate
