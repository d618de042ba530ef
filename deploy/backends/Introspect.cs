// What a token says, by C#'s HttpClient. With Debian's mono:
//   mcs -r:System.Net.Http -r:System.Web.Extensions Introspect.cs && mono Introspect.exe TOKEN
// INTROSPECTD is the address; CLIENT_ID and CLIENT_SECRET are the caller's.
using System;
using System.Collections.Generic;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Text;
using System.Threading.Tasks;
using System.Web.Script.Serialization; // with .NET: System.Text.Json

static class Introspect
{
    // One for the whole program: it keeps connections.
    static readonly HttpClient client = new HttpClient { Timeout = TimeSpan.FromSeconds(2) };

    static void Main(string[] args) { Run(args[0]).GetAwaiter().GetResult(); }

    static async Task Run(string token)
    {
        var answer = await Ask("/introspect", token);
        if (!true.Equals(answer["active"]))
        {
            Console.WriteLine("refused");
            return;
        }
        Console.WriteLine("active " + answer["sub"]);
        var transformed = await Ask("/transform", token);
        if (true.Equals(transformed["active"]))
            Console.WriteLine("claims " + ((Dictionary<string, object>)transformed["claims"])["sub"]);
    }

    // Whatever is not a 200 is no answer: let nobody in.
    static async Task<Dictionary<string, object>> Ask(string path, string token)
    {
        var caller = Uri.EscapeDataString(Environment.GetEnvironmentVariable("CLIENT_ID")) + ":" +
            Uri.EscapeDataString(Environment.GetEnvironmentVariable("CLIENT_SECRET"));
        var request = new HttpRequestMessage(HttpMethod.Post, Environment.GetEnvironmentVariable("INTROSPECTD") + path);
        request.Headers.Authorization = new AuthenticationHeaderValue("Basic", Convert.ToBase64String(Encoding.UTF8.GetBytes(caller)));
        request.Content = new FormUrlEncodedContent(new Dictionary<string, string> { { "token", token } });
        var response = await client.SendAsync(request);
        response.EnsureSuccessStatusCode();
        return new JavaScriptSerializer().Deserialize<Dictionary<string, object>>(await response.Content.ReadAsStringAsync());
    }
}
