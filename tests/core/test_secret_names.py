"""Names of credentials, in every spelling, and names that only look alike."""

from __future__ import annotations

from typing import Final

import pytest

from oxygent_client._core.secret_names import is_secret_name

SECRET: Final = """
    authorization Proxy-Authorization WWW-Authentication bearer dpop jwt totp otp xsrf X-CSRF-Token csrfToken
    password userPassword db_password PASSWORD passwd dbpasswd pwd rootPwd pass Pass db_pass dbPass DB_PASS dbpass
    user-pass mysql.pass passcode passphrase pass_phrase_secret pswd pw user_pw contraseña
    secret client_secret clientSecret secrets secretkey secretKey secret_key SECRET_KEY SecretId secret-key
    accesskey accessKey access_key AccessKeyId AWSAccessKeyId OSSAccessKeyId access_key_secret
    appkey appKey app_key APP_KEY app-secret apikey api_key X-API-KEY x-goog-api-key ApiKeys
    x-functions-key Ocp-Apim-Subscription-Key private_key privateKey signing_key master_key licenseKey ssh_key
    SharedAccessKey AccountKey preshared_key encryption-key consumer_key service_key db_key
    token access_token refreshToken id_token AUTH-TOKEN x-amz-security-token x-oss-security-token csrfmiddlewaretoken
    cookie Set-Cookie cookies sessionCookie
    sig Sig x-sig signature Signature X-Amz-Signature x-goog-signature x-oss-signature q-signature x-hub-signature
    x-hub-signature-256 webhookSignature signature_value sas sasToken X-Amz-Credential x-oss-credential q-ak
    session Session user_session userSession session_id sessionId sessionID sessionid SESSION-ID session_key sess_id
    sid SID Sid connect.sid connect_sid sidValue JSESSIONID PHPSESSID ASPSESSIONIDQQTT ASP.NET_SessionId CFID CFTOKEN
    koa.sess sess
    ak sk AK SK aliyun_ak aliyunSk app.sk access_ak ak1
    pin Pin PIN user_pin userPin pin_code pinCode PIN-CODE card_pin pin_number pin2
    creds credential credentials connection_string ConnectionString client_assertion code_verifier device_code
    SAMLResponse
    密码 用户密码 密碼 登录密码2 db密码 密钥 应用密钥 访问密钥 秘钥 私钥 金鑰 口令 令牌 访问令牌
    权杖 凭证 凭据 授权码 验证码
    签名 请求签名 簽名 签名值 会话 会话ID 会话_id 会话标识 用户会话 會話 个人识别码 PIN码 pin_码
""".split()
PLAIN: Final = """
    passed passes passing passenger passport passage pass_count pass_rate passCount compass bypass surpass low_pass
    highPass single_pass boarding_pass
    design designer assignment assign sign signed signal signals signup signin signature_version signatureAlgorithm
    signature_count function_signature methodSignature significant sigma
    session_count sessionCount sessions session_name session_timeout session_length session_start sessionState
    side sidebar inside outside residence siding preside
    pinned pinnedAt pinyin pinpoint spin ping opinion shipping pin_count pins pint map_pin push_pin
    task ask desk risk mask sky skill skip peak break speak akin bank
    key keys cache_key primary_key foreignKey keyword keyboard monkey turkey hotkey sort_key partition_key
    author authority authored oauthor cookbook secretary secretariat tokenizer tokenize
    content-type x-request-id traceparent host date x-tenant idempotency-key caller callee query answer
    密码学 密码本 令牌数 会话数 会话次数 签名数 关键词 标识
""".split()


@pytest.mark.parametrize("name", SECRET)
def test_names_of_secrets(name: str) -> None:
    """Names of credentials are recognized in each spelling, and in Chinese."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN)
def test_names_of_other_things(name: str) -> None:
    """A name that contains the letters of a credential's name is not one."""
    assert not is_secret_name(name)


def test_a_name_that_is_not_remembered() -> None:
    """A name that is too long to be remembered counts by the same rules."""
    assert is_secret_name("x" * 100 + "_password")
    assert not is_secret_name("x" * 100)
