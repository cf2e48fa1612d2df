// Score images with a model of fre, on OpenVINO; stb_image decodes the files.
//
// score part.onnx IMAGE...

#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

using Pixels = std::vector<uint8_t>;

// Resize one axis of pixels seen as (outer, from, inner) to (outer, to, inner): bilinear,
// antialiased where it shrinks, in 22-bit fixed point, rounded to 8 bits.
Pixels resize_axis(const Pixels& pixels, size_t outer, size_t from, size_t to, size_t inner) {
    if (from == to) return pixels;
    constexpr int bits = 22;
    const double scale = double(from) / to, reach = std::max(scale, 1.0);
    Pixels result(outer * to * inner);
    for (size_t at = 0; at < to; at++) {
        const double centre = (at + 0.5) * scale;
        const int first = std::max(0, int(centre - reach + 0.5));
        const int last = std::min(int(from), int(centre + reach + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int i = first; i < last; i++) {
            weights.push_back(std::max(0.0, 1 - std::abs((i - centre + 0.5) * (1 / reach))));
            sum += weights.back();
        }
        std::vector<int64_t> fixed;
        for (double weight : weights) fixed.push_back(int64_t(0.5 + weight / sum * (1 << bits)));
        for (size_t o = 0; o < outer; o++)
            for (size_t i = 0; i < inner; i++) {
                int64_t total = 1 << (bits - 1);
                for (size_t k = 0; k < fixed.size(); k++)
                    total += fixed[k] * pixels[(o * from + first + k) * inner + i];
                result[(o * to + at) * inner + i] = std::min<int64_t>(255, total >> bits);
            }
    }
    return result;
}

int fail(const std::string& message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    return 2;
}

int main(int count, char** arguments) try {
    if (count < 3) return fail("usage: score MODEL.onnx IMAGE...");
    std::ifstream file(arguments[1], std::ios::binary);
    const std::string data((std::istreambuf_iterator<char>(file)), {});
    auto has = [&](const char* text) { return data.find(text) != std::string::npos; };
    if (!has("\"fre_version\"")) return fail(std::string(arguments[1]) + ": not a model of fre");
    if (has("\"fit\": \"letterbox\"") || has("\"tiling\": {"))
        return fail("this program stretches images; the model was trained with letterbox or tiles");

    ov::Core core;
    // Some processors would compute in bfloat16, and the scores would differ.
    auto model = core.compile_model(
        arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32),
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = model.create_infer_request();
    const auto shape = model.input("images").get_partial_shape();
    const size_t height = shape[1].get_length(), width = shape[2].get_length();
    auto gives = [&](const std::string& name) {
        for (const auto& output : model.outputs())
            if (output.get_names().count(name)) return true;
        return false;
    };
    for (int index = 2; index < count; index++) {
        const char* path = arguments[index];
        int w, h, channels;
        if (stbi_is_16_bit(path)) return fail(std::string(path) + ": expected 8 bits a channel");
        std::unique_ptr<uint8_t, void (*)(void*)> read(stbi_load(path, &w, &h, &channels, 3),
                                                       stbi_image_free);
        if (!read) return fail(std::string(path) + ": " + stbi_failure_reason());
        // By width, then by height, as fre does it.
        Pixels pixels(read.get(), read.get() + size_t(w) * h * 3);
        pixels = resize_axis(pixels, h, w, width, 3);
        pixels = resize_axis(pixels, 1, h, height, width * 3);
        request.set_tensor("images", {ov::element::u8, {1, height, width, 3}, pixels.data()});
        request.infer();
        std::printf("{\"path\": \"%s\", \"score\": %.9g", path,
                    request.get_tensor("score").data<float>()[0]);
        if (gives("p_value"))
            std::printf(", \"p_value\": %.9g", request.get_tensor("p_value").data<float>()[0]);
        if (gives("anomalous")) {
            // The type depends on the version of OpenVINO: boolean or uint8, one byte each.
            const auto tensor = request.get_tensor("anomalous");
            const bool anomalous = *static_cast<const uint8_t*>(tensor.data()) != 0;
            std::printf(", \"anomalous\": %s", anomalous ? "true" : "false");
        }
        std::printf("}\n");
    }
} catch (const std::exception& error) {
    return fail(error.what());
}
