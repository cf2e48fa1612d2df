using System;

/// <summary>The resize that models of fre are trained with: bilinear, antialiased where it shrinks,
/// in 22-bit fixed point, by width and then by height, rounded to 8 bits after each.</summary>
public static class Resizer
{
    const int Bits = 22;

    /// <summary>Resize RGB pixels, (height, width, 3), to (toHeight, toWidth, 3).</summary>
    public static byte[] Resize(byte[] pixels, int height, int width, int toHeight, int toWidth)
    {
        byte[] wide = Axis(pixels, height, width, toWidth, 3);
        return Axis(wide, 1, height, toHeight, toWidth * 3);
    }

    // One axis of pixels seen as (outer, from, inner), to (outer, to, inner).
    static byte[] Axis(byte[] pixels, int outer, int from, int to, int inner)
    {
        if (from == to) return pixels;
        double scale = (double)from / to, reach = Math.Max(scale, 1.0);
        byte[] result = new byte[outer * to * inner];
        for (int at = 0; at < to; at++)
        {
            double centre = (at + 0.5) * scale, sum = 0;
            int first = Math.Max(0, (int)(centre - reach + 0.5));
            int last = Math.Min(from, (int)(centre + reach + 0.5));
            double[] weights = new double[last - first];
            for (int k = 0; k < weights.Length; k++)
            {
                weights[k] = Math.Max(0, 1 - Math.Abs((first + k - centre + 0.5) * (1 / reach)));
                sum += weights[k];
            }
            long[] whole = new long[weights.Length];
            for (int k = 0; k < whole.Length; k++)
                whole[k] = (long)(0.5 + weights[k] / sum * (1 << Bits));
            for (int o = 0; o < outer; o++)
                for (int i = 0; i < inner; i++)
                {
                    long total = 1 << (Bits - 1);
                    for (int k = 0; k < whole.Length; k++)
                        total += whole[k] * pixels[(o * from + first + k) * inner + i];
                    result[(o * to + at) * inner + i] = (byte)Math.Min(255, total >> Bits);
                }
        }
        return result;
    }
}
