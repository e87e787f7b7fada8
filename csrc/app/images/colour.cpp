#include "colour.h"

#include <lcms2.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "../text.h"
#include "image.h"

namespace pe::gate {
namespace {

constexpr std::array<uint8_t, 4> kSrgbCodePoints = {1, 13, 0, 1};
constexpr uint32_t kSrgbGamma = 45455;
constexpr std::array<uint32_t, 8> kSrgbChromaticities = {31270, 32900, 64000, 33000,
                                                         30000, 60000, 15000, 6000};
// Writers round these numbers differently.
constexpr int64_t kTolerance = 500;

bool is_near(uint32_t value, uint32_t expected) {
    return std::abs(int64_t(value) - int64_t(expected)) <= kTolerance;
}

struct CloseProfile {
    void operator()(void* profile) const { cmsCloseProfile(profile); }
};
struct DeleteTransform {
    void operator()(void* transform) const { cmsDeleteTransform(transform); }
};
using Profile = std::unique_ptr<void, CloseProfile>;
using Transform = std::unique_ptr<void, DeleteTransform>;

bool is_grey(const Image& image) { return image.layout == PE_GREY || image.layout == PE_GREY_ALPHA; }

// Throws Error with the reason.
Transform open_transform(const Image& image) {
    if (image.was_premultiplied) throw Error("the pixels are premultiplied");
    constexpr const char* kUnreadable = "littlecms cannot read it";
    const std::string& bytes = image.colours.profile;
    const Profile profile(cmsOpenProfileFromMem(bytes.data(), cmsUInt32Number(bytes.size())));
    if (profile == nullptr) throw Error(kUnreadable);
    const bool grey = is_grey(image);
    if (image.cmyk || cmsGetColorSpace(profile.get()) != (grey ? cmsSigGrayData : cmsSigRgbData)) {
        throw Error("its colour space does not fit the pixels");
    }
    const Profile srgb(cmsCreate_sRGBProfile());
    if (srgb == nullptr) throw std::bad_alloc();
    Transform transform(cmsCreateTransform(profile.get(), grey ? TYPE_GRAY_8 : TYPE_RGB_8, srgb.get(),
                                           TYPE_RGB_8, INTENT_RELATIVE_COLORIMETRIC,
                                           cmsFLAGS_NOOPTIMIZE | cmsFLAGS_NOCACHE));
    if (transform == nullptr) throw Error(kUnreadable);
    return transform;
}

// 65535 = 255 * 257, so that this is 255 x / 65535 rounded; 257 is odd, so nothing is halfway.
uint8_t rounded(const uint8_t* sample) {
    uint16_t value;
    std::memcpy(&value, sample, sizeof value);
    return uint8_t((uint32_t(value) + 128) / 257);
}

// 8-bit RGB of any samples; alpha stays as it is.
void convert(Image& image, const Transform& transform) {
    const std::size_t from = is_grey(image) ? 1 : 3, alpha = image.has_alpha() ? 1 : 0;
    const std::size_t bytes = image.sample == PE_UINT16 ? 2 : 1;
    const auto width = std::size_t(image.width);
    Image converted;
    converted.width = image.width;
    converted.height = image.height;
    converted.layout = alpha != 0 ? PE_RGBA : PE_RGB;
    converted.allocate();
    // Row by row, so that nothing is as large as the image but the two of them.
    std::vector<uint8_t> colours(width * from), rgb(width * 3);
    const uint8_t* source = image.samples.data();
    uint8_t* target = converted.samples.data();
    for (int64_t y = 0; y < image.height; ++y) {
        const uint8_t* sample = source;
        for (uint8_t* colour = colours.data(); colour != colours.data() + colours.size();
             sample += alpha * bytes) {
            for (std::size_t c = 0; c < from; ++c, sample += bytes)
                *colour++ = bytes == 2 ? rounded(sample) : *sample;
        }
        cmsDoTransform(transform.get(), colours.data(), rgb.data(), cmsUInt32Number(width));
        for (std::size_t x = 0; x < width; ++x) {
            source += from * bytes;
            target = std::copy_n(rgb.data() + 3 * x, 3, target);
            if (alpha != 0) *target++ = bytes == 2 ? rounded(source) : *source;
            source += alpha * bytes;
        }
    }
    image.layout = converted.layout;
    image.sample = converted.sample;
    image.samples = std::move(converted.samples);
}

void convert_to_srgb(Image& image, const std::string& side, std::vector<std::string>& warnings) {
    if (image.colours.profile.empty()) return;
    try {
        const Transform transform = open_transform(image);
        if (image.sample == PE_UINT16) {
            warnings.push_back("the 16-bit pixels of the " + side + " are rounded to 8 bits to be converted");
        }
        warnings.push_back("the colours of the " + side + " are converted from its ICC profile to sRGB");
        convert(image, transform);
    } catch (const Error& error) {
        throw Error("the ICC profile of the " + side + " cannot be converted to sRGB: " + error.what());
    }
}

}  // namespace

ColourDescription ColourDescription::of_profile(std::string profile) {
    ColourDescription description;
    description.profile = std::move(profile);
    return description;
}

ColourDescription ColourDescription::of_code_points(const std::array<uint8_t, 4>& code_points) {
    ColourDescription description;
    if (code_points != kSrgbCodePoints) description.code_points = code_points;
    return description;
}

ColourDescription ColourDescription::of_primaries(std::optional<uint32_t> gamma,
                                                  std::optional<std::array<uint32_t, 8>> chromaticities) {
    const bool srgb = (!gamma || is_near(*gamma, kSrgbGamma)) &&
                      (!chromaticities || std::equal(chromaticities->begin(), chromaticities->end(),
                                                     kSrgbChromaticities.begin(), &is_near));
    ColourDescription description;
    if (!srgb) {
        description.gamma = gamma;
        description.chromaticities = chromaticities;
    }
    return description;
}

std::string ColourDescription::name() const {
    if (!profile.empty()) return "ICC profile";
    if (code_points) {
        std::string text = "cICP";
        char separator = ' ';
        for (const uint8_t number : *code_points) {
            text.append(1, separator).append(std::to_string(number));
            separator = '/';
        }
        return text;
    }
    std::string text = gamma ? "gAMA " + general(double(*gamma) / 100000) : "";
    if (chromaticities) text += text.empty() ? "cHRM" : " and cHRM";
    return text.empty() ? "sRGB" : text;
}

void match_colours(Image& reference, Image& candidate, bool stored, std::vector<std::string>& warnings) {
    const ColourDescription &first = reference.colours, &second = candidate.colours;
    if (first == second) return;
    const std::string names = first.name() + " and " + second.name();
    if (stored) {
        warnings.push_back("the colours are described differently (" + names +
                           "), and are compared as stored");
        return;
    }
    if (!first.is_convertible() || !second.is_convertible()) {
        throw Error("the colours of reference and candidate are described differently (" + names +
                    "), and only ICC profiles can be converted; --colour stored compares the stored values");
    }
    convert_to_srgb(reference, "reference", warnings);
    convert_to_srgb(candidate, "candidate", warnings);
}

}  // namespace pe::gate
