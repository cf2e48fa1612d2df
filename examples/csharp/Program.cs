// Score images with a model of fre, on ONNX Runtime; SkiaSharp decodes the files.
// The tests of fre compile Resizer.cs only, and do not run this program (they have no .NET): compare
// its scores with those of `fre predict` on a few PNG files before you rely on it.
//
// dotnet run part.onnx IMAGE...

using System.Text.Json;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;
using SkiaSharp;

if (args.Length < 2)
{
    Console.Error.WriteLine("usage: dotnet run MODEL.onnx IMAGE...");
    return 2;
}
using var session = new InferenceSession(args[0]);
using var document = JsonDocument.Parse(session.ModelMetadata.CustomMetadataMap["fre"]);
var how = document.RootElement.GetProperty("preprocessing");
bool letterbox = how.TryGetProperty("fit", out var fit) && fit.GetString() != "stretch";
bool tiles = how.TryGetProperty("tiling", out var tiling) && tiling.ValueKind != JsonValueKind.Null;
if (letterbox || tiles)
{
    Console.Error.WriteLine(
        "this program stretches images; the model was trained with letterbox or tiles");
    return 2;
}
int[] shape = session.InputMetadata["images"].Dimensions;
int height = shape[1], width = shape[2];
foreach (string path in args.Skip(1))
{
    using var image = SKBitmap.Decode(path);
    if (image is null)
    {
        Console.Error.WriteLine($"{path}: can't be read");
        return 2;
    }
    byte[] rgb = image.Pixels.SelectMany(c => new[] { c.Red, c.Green, c.Blue }).ToArray();
    byte[] input = Resizer.Resize(rgb, image.Height, image.Width, height, width);
    var tensor = new DenseTensor<byte>(input, new[] { 1, height, width, 3 });
    using var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor("images", tensor) });
    var answer = new Dictionary<string, object> { ["path"] = path };
    foreach (var result in results)
    {
        if (result.Name is "score" or "p_value")
            answer[result.Name] = result.AsTensor<float>().First();
        if (result.Name == "anomalous")
            answer[result.Name] = result.AsTensor<bool>().First();
    }
    Console.WriteLine(JsonSerializer.Serialize(answer));
}
return 0;
