// Tables of colours, as 0xRRGGBB.
#include "colours.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <string_view>

#include "text.h"

namespace pe::gate {
namespace {

struct Named {
    std::string_view name;
    uint32_t colour;
};

// CSS Color Module Level 4, by name.
constexpr Named kNames[] = {{"aliceblue", 0xf0f8ff},
                            {"antiquewhite", 0xfaebd7},
                            {"aqua", 0x00ffff},
                            {"aquamarine", 0x7fffd4},
                            {"azure", 0xf0ffff},
                            {"beige", 0xf5f5dc},
                            {"bisque", 0xffe4c4},
                            {"black", 0x000000},
                            {"blanchedalmond", 0xffebcd},
                            {"blue", 0x0000ff},
                            {"blueviolet", 0x8a2be2},
                            {"brown", 0xa52a2a},
                            {"burlywood", 0xdeb887},
                            {"cadetblue", 0x5f9ea0},
                            {"chartreuse", 0x7fff00},
                            {"chocolate", 0xd2691e},
                            {"coral", 0xff7f50},
                            {"cornflowerblue", 0x6495ed},
                            {"cornsilk", 0xfff8dc},
                            {"crimson", 0xdc143c},
                            {"cyan", 0x00ffff},
                            {"darkblue", 0x00008b},
                            {"darkcyan", 0x008b8b},
                            {"darkgoldenrod", 0xb8860b},
                            {"darkgray", 0xa9a9a9},
                            {"darkgreen", 0x006400},
                            {"darkgrey", 0xa9a9a9},
                            {"darkkhaki", 0xbdb76b},
                            {"darkmagenta", 0x8b008b},
                            {"darkolivegreen", 0x556b2f},
                            {"darkorange", 0xff8c00},
                            {"darkorchid", 0x9932cc},
                            {"darkred", 0x8b0000},
                            {"darksalmon", 0xe9967a},
                            {"darkseagreen", 0x8fbc8f},
                            {"darkslateblue", 0x483d8b},
                            {"darkslategray", 0x2f4f4f},
                            {"darkslategrey", 0x2f4f4f},
                            {"darkturquoise", 0x00ced1},
                            {"darkviolet", 0x9400d3},
                            {"deeppink", 0xff1493},
                            {"deepskyblue", 0x00bfff},
                            {"dimgray", 0x696969},
                            {"dimgrey", 0x696969},
                            {"dodgerblue", 0x1e90ff},
                            {"firebrick", 0xb22222},
                            {"floralwhite", 0xfffaf0},
                            {"forestgreen", 0x228b22},
                            {"fuchsia", 0xff00ff},
                            {"gainsboro", 0xdcdcdc},
                            {"ghostwhite", 0xf8f8ff},
                            {"gold", 0xffd700},
                            {"goldenrod", 0xdaa520},
                            {"gray", 0x808080},
                            {"green", 0x008000},
                            {"greenyellow", 0xadff2f},
                            {"grey", 0x808080},
                            {"honeydew", 0xf0fff0},
                            {"hotpink", 0xff69b4},
                            {"indianred", 0xcd5c5c},
                            {"indigo", 0x4b0082},
                            {"ivory", 0xfffff0},
                            {"khaki", 0xf0e68c},
                            {"lavender", 0xe6e6fa},
                            {"lavenderblush", 0xfff0f5},
                            {"lawngreen", 0x7cfc00},
                            {"lemonchiffon", 0xfffacd},
                            {"lightblue", 0xadd8e6},
                            {"lightcoral", 0xf08080},
                            {"lightcyan", 0xe0ffff},
                            {"lightgoldenrodyellow", 0xfafad2},
                            {"lightgray", 0xd3d3d3},
                            {"lightgreen", 0x90ee90},
                            {"lightgrey", 0xd3d3d3},
                            {"lightpink", 0xffb6c1},
                            {"lightsalmon", 0xffa07a},
                            {"lightseagreen", 0x20b2aa},
                            {"lightskyblue", 0x87cefa},
                            {"lightslategray", 0x778899},
                            {"lightslategrey", 0x778899},
                            {"lightsteelblue", 0xb0c4de},
                            {"lightyellow", 0xffffe0},
                            {"lime", 0x00ff00},
                            {"limegreen", 0x32cd32},
                            {"linen", 0xfaf0e6},
                            {"magenta", 0xff00ff},
                            {"maroon", 0x800000},
                            {"mediumaquamarine", 0x66cdaa},
                            {"mediumblue", 0x0000cd},
                            {"mediumorchid", 0xba55d3},
                            {"mediumpurple", 0x9370db},
                            {"mediumseagreen", 0x3cb371},
                            {"mediumslateblue", 0x7b68ee},
                            {"mediumspringgreen", 0x00fa9a},
                            {"mediumturquoise", 0x48d1cc},
                            {"mediumvioletred", 0xc71585},
                            {"midnightblue", 0x191970},
                            {"mintcream", 0xf5fffa},
                            {"mistyrose", 0xffe4e1},
                            {"moccasin", 0xffe4b5},
                            {"navajowhite", 0xffdead},
                            {"navy", 0x000080},
                            {"oldlace", 0xfdf5e6},
                            {"olive", 0x808000},
                            {"olivedrab", 0x6b8e23},
                            {"orange", 0xffa500},
                            {"orangered", 0xff4500},
                            {"orchid", 0xda70d6},
                            {"palegoldenrod", 0xeee8aa},
                            {"palegreen", 0x98fb98},
                            {"paleturquoise", 0xafeeee},
                            {"palevioletred", 0xdb7093},
                            {"papayawhip", 0xffefd5},
                            {"peachpuff", 0xffdab9},
                            {"peru", 0xcd853f},
                            {"pink", 0xffc0cb},
                            {"plum", 0xdda0dd},
                            {"powderblue", 0xb0e0e6},
                            {"purple", 0x800080},
                            {"rebeccapurple", 0x663399},
                            {"red", 0xff0000},
                            {"rosybrown", 0xbc8f8f},
                            {"royalblue", 0x4169e1},
                            {"saddlebrown", 0x8b4513},
                            {"salmon", 0xfa8072},
                            {"sandybrown", 0xf4a460},
                            {"seagreen", 0x2e8b57},
                            {"seashell", 0xfff5ee},
                            {"sienna", 0xa0522d},
                            {"silver", 0xc0c0c0},
                            {"skyblue", 0x87ceeb},
                            {"slateblue", 0x6a5acd},
                            {"slategray", 0x708090},
                            {"slategrey", 0x708090},
                            {"snow", 0xfffafa},
                            {"springgreen", 0x00ff7f},
                            {"steelblue", 0x4682b4},
                            {"tan", 0xd2b48c},
                            {"teal", 0x008080},
                            {"thistle", 0xd8bfd8},
                            {"tomato", 0xff6347},
                            {"turquoise", 0x40e0d0},
                            {"violet", 0xee82ee},
                            {"wheat", 0xf5deb3},
                            {"white", 0xffffff},
                            {"whitesmoke", 0xf5f5f5},
                            {"yellow", 0xffff00},
                            {"yellowgreen", 0x9acd32}};

// The colour map of that name of matplotlib, by Nathaniel Smith and Stefan van der Walt, in the public domain
// (CC0).
constexpr uint32_t kViridis[] = {
    0x440154, 0x440255, 0x440357, 0x450558, 0x45065a, 0x45085b, 0x46095c, 0x460b5e, 0x460c5f, 0x460e61,
    0x470f62, 0x471163, 0x471265, 0x471466, 0x471567, 0x471669, 0x47186a, 0x48196b, 0x481a6c, 0x481c6e,
    0x481d6f, 0x481e70, 0x482071, 0x482172, 0x482273, 0x482374, 0x472575, 0x472676, 0x472777, 0x472878,
    0x472a79, 0x472b7a, 0x472c7b, 0x462d7c, 0x462f7c, 0x46307d, 0x46317e, 0x45327f, 0x45347f, 0x453580,
    0x453681, 0x443781, 0x443982, 0x433a83, 0x433b83, 0x433c84, 0x423d84, 0x423e85, 0x424085, 0x414186,
    0x414286, 0x404387, 0x404487, 0x3f4587, 0x3f4788, 0x3e4888, 0x3e4989, 0x3d4a89, 0x3d4b89, 0x3d4c89,
    0x3c4d8a, 0x3c4e8a, 0x3b508a, 0x3b518a, 0x3a528b, 0x3a538b, 0x39548b, 0x39558b, 0x38568b, 0x38578c,
    0x37588c, 0x37598c, 0x365a8c, 0x365b8c, 0x355c8c, 0x355d8c, 0x345e8d, 0x345f8d, 0x33608d, 0x33618d,
    0x32628d, 0x32638d, 0x31648d, 0x31658d, 0x31668d, 0x30678d, 0x30688d, 0x2f698d, 0x2f6a8d, 0x2e6b8e,
    0x2e6c8e, 0x2e6d8e, 0x2d6e8e, 0x2d6f8e, 0x2c708e, 0x2c718e, 0x2c728e, 0x2b738e, 0x2b748e, 0x2a758e,
    0x2a768e, 0x2a778e, 0x29788e, 0x29798e, 0x287a8e, 0x287a8e, 0x287b8e, 0x277c8e, 0x277d8e, 0x277e8e,
    0x267f8e, 0x26808e, 0x26818e, 0x25828e, 0x25838d, 0x24848d, 0x24858d, 0x24868d, 0x23878d, 0x23888d,
    0x23898d, 0x22898d, 0x228a8d, 0x228b8d, 0x218c8d, 0x218d8c, 0x218e8c, 0x208f8c, 0x20908c, 0x20918c,
    0x1f928c, 0x1f938b, 0x1f948b, 0x1f958b, 0x1f968b, 0x1e978a, 0x1e988a, 0x1e998a, 0x1e998a, 0x1e9a89,
    0x1e9b89, 0x1e9c89, 0x1e9d88, 0x1e9e88, 0x1e9f88, 0x1ea087, 0x1fa187, 0x1fa286, 0x1fa386, 0x20a485,
    0x20a585, 0x21a685, 0x21a784, 0x22a784, 0x23a883, 0x23a982, 0x24aa82, 0x25ab81, 0x26ac81, 0x27ad80,
    0x28ae7f, 0x29af7f, 0x2ab07e, 0x2bb17d, 0x2cb17d, 0x2eb27c, 0x2fb37b, 0x30b47a, 0x32b57a, 0x33b679,
    0x35b778, 0x36b877, 0x38b976, 0x39b976, 0x3bba75, 0x3dbb74, 0x3ebc73, 0x40bd72, 0x42be71, 0x44be70,
    0x45bf6f, 0x47c06e, 0x49c16d, 0x4bc26c, 0x4dc26b, 0x4fc369, 0x51c468, 0x53c567, 0x55c666, 0x57c665,
    0x59c764, 0x5bc862, 0x5ec961, 0x60c960, 0x62ca5f, 0x64cb5d, 0x67cc5c, 0x69cc5b, 0x6bcd59, 0x6dce58,
    0x70ce56, 0x72cf55, 0x74d054, 0x77d052, 0x79d151, 0x7cd24f, 0x7ed24e, 0x81d34c, 0x83d34b, 0x86d449,
    0x88d547, 0x8bd546, 0x8dd644, 0x90d643, 0x92d741, 0x95d73f, 0x97d83e, 0x9ad83c, 0x9dd93a, 0x9fd938,
    0xa2da37, 0xa5da35, 0xa7db33, 0xaadb32, 0xaddc30, 0xafdc2e, 0xb2dd2c, 0xb5dd2b, 0xb7dd29, 0xbade27,
    0xbdde26, 0xbfdf24, 0xc2df22, 0xc5df21, 0xc7e01f, 0xcae01e, 0xcde01d, 0xcfe11c, 0xd2e11b, 0xd4e11a,
    0xd7e219, 0xdae218, 0xdce218, 0xdfe318, 0xe1e318, 0xe4e318, 0xe7e419, 0xe9e419, 0xece41a, 0xeee51b,
    0xf1e51c, 0xf3e51e, 0xf6e61f, 0xf8e621, 0xfae622, 0xfde724};

Colour of_number(uint32_t colour) { return {uint8_t(colour >> 16), uint8_t(colour >> 8), uint8_t(colour)}; }

// The value of hexadecimal digits; -1 where there are others.
int64_t hexadecimal(std::string_view digits) {
    int64_t value = 0;
    for (const char c : digits) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isxdigit(byte) == 0) return -1;
        value = value * 16 + (std::isdigit(byte) != 0 ? byte - '0' : std::tolower(byte) - 'a' + 10);
    }
    return value;
}

}  // namespace

Colour parse_colour(const std::string& text) {
    if (!text.empty() && text[0] == '#') {
        const int64_t value = hexadecimal(std::string_view(text).substr(1));
        if (value >= 0 && text.size() == 7) return of_number(uint32_t(value));
        if (value >= 0 && text.size() == 4) {
            const auto digit = [&](int shift) { return uint8_t((value >> shift & 15) * 17); };
            return {digit(8), digit(4), digit(0)};
        }
    }
    std::string name = text;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    const auto* found =
        std::lower_bound(std::begin(kNames), std::end(kNames), name,
                         [](const Named& entry, std::string_view key) { return entry.name < key; });
    if (found == std::end(kNames) || found->name != name) {
        throw Error("background: expected a colour such as 'white' or '#808080', got '" + text + "'");
    }
    return of_number(found->colour);
}

Colour viridis(float value) {
    const auto index = std::min<std::size_t>(std::size_t(value * 256.0f), 255);
    return of_number(kViridis[index]);
}

}  // namespace pe::gate
